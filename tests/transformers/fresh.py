"""In a process of its own: loads every student through transformers and prints, as JSON, what came of it.

python -m tests.transformers.fresh FOLDER import|trust|nothing
"""

import json
import sys
from pathlib import Path


def main() -> None:
    folder, how = Path(sys.argv[1]), sys.argv[2]
    if how == "import":
        import kdnative.transformers  # noqa: F401
    import torch
    import transformers

    try:
        import sentence_transformers as st
    except ImportError:
        st = None
    options = {"trust_remote_code": True} if how == "trust" else {}
    found = {}

    def attempt(name, work):
        try:
            found[name] = work()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    if how == "nothing":
        autos = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoModelForImageClassification")
        for auto in autos:
            attempt(auto, lambda auto=auto: str(getattr(transformers, auto).from_pretrained(folder / "full")))
        attempt("pipeline", lambda: str(transformers.pipeline("text-classification", model=str(folder / "full"))))
        if st is not None:
            attempt("SentenceTransformer", lambda: str(st.SentenceTransformer(str(folder / "encoder"), device="cpu")))
            attempt("CrossEncoder", lambda: str(st.CrossEncoder(str(folder / "full"), device="cpu")))
        attempt("BertModel", lambda: str(transformers.BertModel.from_pretrained(folder / "full")))
        print(json.dumps(found))
        return
    from tests.transformers.students import IMAGE_STUDENTS, TEXT_STUDENTS, TEXTS, picture, text_logits

    expected = torch.load(folder / "expected.pt")

    def text(name):
        auto = transformers.AutoModel if name == "encoder" else transformers.AutoModelForSequenceClassification
        model = auto.from_pretrained(folder / name, **options)
        assert torch.equal(text_logits(model), expected[name]), "other bits"
        config = transformers.AutoConfig.from_pretrained(folder / name, **options)
        assert isinstance(config, transformers.BertConfig) and config.hidden_size == 64
        model.save_pretrained(folder / f"{name}-again-{how}")
        if name != "pruned_float":  # transformers itself writes a float model
            again = auto.from_pretrained(folder / f"{name}-again-{how}", **options)
            assert torch.equal(text_logits(again), expected[name]), "other bits after saving"
        base = transformers.AutoModel.from_pretrained(folder / name, **options)
        assert not hasattr(base(input_ids=torch.tensor([[2, 4, 3]])), "logits")
        return type(model).__name__

    def piped(name):
        run = transformers.pipeline("text-classification", model=str(folder / name), **options)
        rows = run(TEXTS, top_k=None, batch_size=4)
        order = ["bad", "fair", "good"]
        scores = torch.tensor([[next(r["score"] for r in row if r["label"] == n) for n in order] for row in rows])
        # What the pipeline does with logits, in numpy
        logits = expected[name].numpy()
        import numpy as np

        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        assert torch.equal(scores, torch.from_numpy(shifted / shifted.sum(-1, keepdims=True))), "other probabilities"
        return run.tokenizer.__class__.__name__

    def image(name):
        run = transformers.pipeline("image-classification", model=str(folder / name), **options)
        rows = {row["label"]: row["score"] for row in run(picture(9))}
        pixels = run.image_processor(picture(9), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            assert torch.equal(run.model(pixels).logits, expected[name]), "other bits"
        wanted = expected[name].softmax(-1)[0]
        assert list(rows) == [["bad", "fair", "good"][i] for i in wanted.argsort(descending=True)], rows
        run.model.save_pretrained(folder / f"{name}-again-{how}")
        return type(run.model).__name__

    def sentences(name):
        """Mean pooling of the encoder, and the logits of the classifier as a cross-encoder gives them."""
        base = transformers.AutoModel.from_pretrained(folder / name, **options)
        words = transformers.AutoTokenizer.from_pretrained(folder / name)
        embeddings = st.SentenceTransformer(str(folder / name), device="cpu", **options).encode(TEXTS[0])
        with torch.inference_mode():
            states = base(**words(TEXTS[0], return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(torch.from_numpy(embeddings), states.mean(1)[0], rtol=1e-5, atol=1e-6)
        if name == "encoder":
            return "same"
        scores = st.CrossEncoder(str(folder / name), device="cpu", **options).predict([(TEXTS[0], TEXTS[1])])
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / name, **options)
        with torch.inference_mode():
            logits = model(**words(TEXTS[0], TEXTS[1], return_tensors="pt")).logits
        assert torch.equal(torch.from_numpy(scores), logits), "other scores"
        return "same"

    for name in TEXT_STUDENTS if st is not None else ():
        attempt(f"sentences {name}", lambda name=name: sentences(name))
    for name in TEXT_STUDENTS:
        attempt(name, lambda name=name: text(name))
    attempt("pipeline", lambda: [piped(name) for name in ("full", "pruned", "four_bits")])
    for name in IMAGE_STUDENTS:
        attempt(name, lambda name=name: image(name))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
