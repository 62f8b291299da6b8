"Reference checks of trees and of what is sampled on them."
import math
import re

import torch
from reference_common import Report, Unsupported, same

from recbench.data.feed.tdm_loader import expand_rows
from recbench.data.feed.tree import Tree, category_tree
from recbench.data.feed.tree_nodes import node_ids, node_means, node_modes


def leaf_depths(codes: list[int], branches: int) -> list[int]:
    "Distinct levels of some codes."
    found = set()
    for code in codes:
        level = 0
        while code: code, level = (code - 1) // branches, level + 1
        found.add(level)
    return sorted(found)


def pulled(codes: list[int], branches: int) -> list[int]:
    """Where TorchEasyRec pulls the leaves to.

    Its bound is the first code of a level only for two branches.
    """
    bound, result = branches**math.ceil(math.log(len(codes), branches)) - 1, []
    for code in codes:
        while code < bound: code = branches * code + 1
        result.append(code)
    return result


def attributes(tree: Tree, rows: list[list]) -> list[str]:
    "What stands behind the id of each node: the most frequent word below, and the mean number."
    words = sorted({row[2] for row in rows} | {""})
    own = torch.tensor([words.index(row[2]) for row in rows])
    inner = torch.zeros(len(tree), dtype=torch.int64)
    nodes, modes = node_modes(tree, own, torch.ones_like(own), missing=words.index(""))
    kinds = torch.cat([inner[:-len(rows)].index_put((nodes,), modes), own[tree.items]])
    numbers = node_means(tree, torch.tensor([[float(row[3])] for row in rows], dtype=torch.float64))[
        :, 0
    ].tolist()
    return [f"{words[kind]},{number}" for kind, number in zip(kinds.tolist(), numbers)]


def tree_files(tree: Tree, rows: list[list]) -> dict[str, str]:
    "The four text files that TorchEasyRec writes of a tree."
    ids, level, about = (
        node_ids(tree, torch.tensor([row[0] for row in rows])).tolist(),
        tree.level.tolist(),
        attributes(tree, rows),
    )
    nodes = [(-1, -1, ids[0], about[0]), *zip(ids, level, ids, about)]
    leaves = range(len(tree) - len(rows), len(tree))
    way = [node for node in tree.ancestors(tree.items)[:, :-1].flip(1).tolist()]
    edge = "src_id:int64\tdst_id:int64\tweight:float\n"
    return {
        "node_table.txt": "id:int64\tweight:float\tfeature:string\n"
        + "".join(f"{key}\t1.0\t{depth},{own},{rest}\n" for key, depth, own, rest in nodes),
        "edge_table.txt": edge
        + "".join(
            f"{ids[leaf]}\t{ids[node]}\t1.0\n" for leaf, nodes in zip(leaves, way) for node in nodes
        ),
        "predict_edge_table.txt": edge
        + "".join(
            f"{-1 if parent < 0 else ids[parent]}\t{own}\t1.0\n"
            for parent, own in zip(tree.parent.tolist(), ids)
        ),
        "serving_tree": f"{tree.levels} {tree.branches}\n"
        + "".join(f"{code} {own}\n" for code, own in zip(tree.codes.tolist(), ids)),
    }


def same_text(text: str, expected: str) -> None:
    "The same words and lines, numbers up to rounding."
    words, others = (re.split(r"([,\s])", content) for content in (text, expected))
    assert len(words) == len(others), f"{text!r}, expected {expected!r}"
    for word, other in zip(words, others):
        assert word == other or math.isclose(
            float(word), float(other), rel_tol=1e-6
        ), f"{word} in {text!r}, expected {other} in {expected!r}"


def check_tree(stored: dict, report: Report, name: str) -> None:
    rows, branches = (
        sorted(stored["items(id,cate,attr,raw)"]),
        stored["n_cluster"],
    )  # ties go to the first in the order of category and id
    rows.sort(key=lambda row: (row[1], row[0]))
    tree = category_tree([row[1] for row in rows], branches)
    codes = tree.codes[tree.node_of_item].tolist()
    theirs = [stored["leaf_codes"][str(row[0])] for row in rows]
    with report.case(f"{name}/order_of_leaves"):
        assert pulled(codes, branches) == theirs, f"codes {codes}, expected {theirs}"
    lost = stored["n_leaves_in_edge_table"] < len(rows) and len(rows) > 1
    with report.case(f"{name}/leaves"):
        assert sorted(tree.items.tolist()) == list(range(len(rows))) and set(
            tree.level[tree.node_of_item].tolist()
        ) == {tree.levels - 1}
        if lost or len(stored["leaf_depths"]) > 1 or tree.levels - 1 != stored["max_level"]:
            raise Unsupported("leaves lost in trees with more than two branches")
        assert leaf_depths(codes, branches) == stored["leaf_depths"]
    for file, text in stored.get("files", {}).items():
        with report.case(f"{name}/{file}"):
            if codes != theirs: raise Unsupported("leaves lost in trees with more than two branches")
            same_text(tree_files(tree, rows)[file], text)


def check_trees(content: list, report: Report) -> None:
    for stored in content: check_tree(stored["value"], report, f"n{stored['n_cluster']}_L{stored['L']}")


def check_expansion(expected: dict, report: Report) -> None:
    """Users 1, 2, ...

    with an item, the nodes above it and negatives: which rows, in which order, with which labels.
    """
    with report.case("expand_tdm_sample"):
        users, label = expected["u"], expected["label"]
        count, positive = next(
            i for i in range(1, len(users) + 1) if users[i : i + 1] in ([users[0]], [])
        ), sum(label)
        values = torch.tensor(expected["i"], dtype=torch.float64)
        above, negatives = (
            part.view(count, -1) for part in (values[count:positive], values[positive:])
        )
        rows, owner, made = expand_rows(values[:count], above, negatives)
        same(rows, values, "rows")
        assert (
            torch.tensor(users[:count])[owner].tolist() == users
        ), f"users are {torch.tensor(users[:count])[owner].tolist()}, expected {users}"
        assert made.int().tolist() == label, f"labels are {made.int().tolist()}, expected {label}"


LAYOUTS = {"expand_tdm_sample": check_expansion}
ELSEWHERE = {
    "combine_string": ("candidates are rows of tensors, positives then negatives, and never "
                       "joined texts"),
    "combine_list": "shared negatives stand behind all positives and belong to no row",
    "build_sampler_input": ("a sampler is given tensors of users and items, nothing is flattened "
                            "from texts"),
    "slice_position": "a stream shuffles whole row groups, no worker is given a slice of rows",
}


def check_layouts(content: dict, report: Report) -> None:
    "Parts of a file about the rows that samplers make, each by its own check."
    for name, part in content.items():
        if name in LAYOUTS: LAYOUTS[name](part, report)
        else:
            with report.case(name): raise Unsupported(ELSEWHERE.get(name, "not covered yet"))


CHECKERS = {"tdm_tree*": check_trees, "sampler_layout*": check_layouts}
