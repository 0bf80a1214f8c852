"""Mistakes in the divergence of two heads in plain torch: tiles, the passes over them, the function and its terms."""

TILES = "kdnative/distill/tiled/tiles.py"
PASSES = "kdnative/distill/tiled/passes.py"
FUNCTION = "kdnative/distill/tiled/function.py"
TERMS = "kdnative/distill/terms/without_logits.py"

TESTS = ("tests/distill/tiled", "tests/distill/terms/test_without_logits.py")

MUTANTS = (
    (TILES, ".exp_().mul_(share)", ".exp_()"),
    (TILES, "log_q.exp_().sub_(p)", "log_q.exp_()"),
    (TILES, ".mul_(rows.soft[:, None])", ""),
    (TILES, "(rows.labels < logits.shape[1])", "(rows.labels <= logits.shape[1])"),
    (TILES, "-rows.hard.where(inside, 0.0)", "-rows.hard"),
    (TILES, "[:, 0].where(inside, 0.0)", "[:, 0]"),
    (TILES, "scaled = logits / temperature", "scaled = logits * 1.0"),
    (TILES, "top.masked_fill_(top == -torch.inf, 0.0)", "top.masked_fill_(top == 0.0, 0.0)"),
    (TILES, "scaled.sub_(top).exp_().sum(-1).log_().add_(top[:, 0])", "scaled.exp_().sum(-1).log_()"),
    (PASSES, "(soft_weight * self.lift / problem.temperature)", "(soft_weight / problem.temperature)"),
    (PASSES, "(hard_weight * self.lift)", "self.lift"),
    (PASSES, "float(self.rows) if", "1.0 if"),
    (PASSES, "problem.labels[rows] - classes.start", "problem.labels[rows]"),
    (PASSES, "part.div_(self.lift)", "part"),
    (PASSES, "self.of_hidden.div_(self.lift)", "self.of_hidden"),
    (PASSES, "self.of_bias.div_(self.lift)", "self.of_bias"),
    (PASSES, "yield slice(start, min(start + size, count))", "yield slice(start, min(start + size, count - 1))"),
    (PASSES, "if casts or sums_elsewhere or not", "if not"),
    (PASSES, "self.divergence[rows] += found.divergence", "self.divergence[rows] = found.divergence"),
    (PASSES, "self.likelihood[rows] += found.likelihood", "self.likelihood[rows] = found.likelihood"),
    (PASSES, "        to.addmm_(a, b)", "        to.copy_(a @ b)"),
    (FUNCTION, "* temperature**2", "* temperature"),
    (FUNCTION, "gradients, ctx.gradients = ctx.gradients, None", "gradients = ctx.gradients"),
    (FUNCTION, "each.mul_(upstream)", "each"),
    (FUNCTION, "soft | (known >= 0)", "soft"),
    (FUNCTION, "w / sum(given)", "w"),
    (FUNCTION, "if torch.is_grad_enabled():", "if False:"),
    (TERMS, "labels.where(labels != hard.ignore_index, IGNORED)", "labels"),
    (TERMS, "mask=soft.mask_of(batch, shape)", "mask=None"),
    (TERMS, "each.is_lazy and", ""),
)
