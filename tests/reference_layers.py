"Reference checks of `recbench.layers`."
from reference_common import SUM_ATOL, Report, same, tensor

from recbench.layers import VariationalDropout


def check_variational_dropout(content: dict, report: Report) -> None:
    layer = VariationalDropout(content["dims"], regularization_lambda=content["lambda"], temperature=content["temperature"])
    x = tensor(content["x"])
    for i, stored in enumerate(content["cases"]):
        with report.case(f"feature_p_{i}"):
            layer.load_state_dict({"feature_p": tensor(stored["feature_p"])})
            output, penalty = layer.eval()(x)
            same(output, stored["eval_output"], "output in eval")
            same(penalty, stored["eval_penalty"], "penalty in eval")
            layer.zero_grad()
            output, penalty = layer.train()(x, noise=tensor(stored["train_uniform_noise"]))
            same(output, stored["train_output"], "output in train")
            same(penalty, stored["train_penalty"], "penalty in train")
            (output.sum() + penalty).backward()
            same(layer.feature_p.grad, stored["grad_feature_p_of_sum(train_out)+penalty"], "gradient", SUM_ATOL)


CHECKERS = {"variational_dropout*": check_variational_dropout}
