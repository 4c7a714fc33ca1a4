"""On a GPU: the head and every method equal the CPU, every precision trains, torch.compile changes nothing."""

import copy

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.classifier import Classifier
from prompting.ot import hierarchical_ot
from tests.reference import ot_naive as naive
from tests.reference.methods import METHODS, build, draw_images, relearn, tiny_vit, train_on_four

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture(autouse=True)
def convolutions_without_tf32():
    """TF32, which torch uses in convolutions, has 10 bits of mantissa; without it the devices differ by rounding."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.parametrize("max_elements", [2**26, 400])
@pytest.mark.parametrize("lam", [0.1, 0.01])  # 0.01 runs in the log domain
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_the_head_equals_the_cpu(reading, lam, max_elements):
    features, mask = naive.features(0, common=0.5), naive.lengths_mask([5, 2, 3], 5)

    def run(device):
        leaves = {name: x.to(device).requires_grad_() for name, x in features.items()}
        settings = {"reading": reading, "lambda_prompt": lam, "lambda_token": lam, "max_elements": max_elements}
        out = hierarchical_ot(**leaves, s_mask=mask.to(device), logit_scale=20.0, **settings)
        weights = torch.linspace(-1, 2, out.logits.numel(), dtype=out.logits.dtype, device=device)
        gradients = torch.autograd.grad(
            (out.logits.flatten() * weights).sum(), list(leaves.values()), allow_unused=True
        )
        tensors = [out.logits, out.cost, *(x for x in gradients if x is not None)]
        return [x.cpu() for x in tensors], out.token.iterations.cpu(), out.prompt.iterations.cpu()

    torch.testing.assert_close(run("cuda"), run("cpu"), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_step_equals_the_cpu(method):
    """Loss, gradients and evaluation logits of a model with drawn learned tensors."""
    model, images, labels = relearn(build(method)), draw_images(tiny_vit()), torch.tensor([0, 2])

    def run(device):
        here = copy.deepcopy(model).to(device)
        for module in here.modules():
            if isinstance(module, torch.nn.Dropout):  # devices draw different numbers
                module.p = 0.0
            elif isinstance(module, torch.nn.MultiheadAttention):
                module.dropout = 0.0
        torch.manual_seed(0)
        found = {}
        if learned_state(here):
            loss, found["train"] = here.train().training_loss(images.to(device), labels.to(device))
            loss.backward()
            found |= {"loss": loss.detach(), **{name: x.grad for name, x in learned_state(here).items()}}
        with torch.no_grad():
            found["eval"] = here.eval()(images.to(device))
        return {name: tensor.detach().cpu() for name, tensor in found.items()}

    torch.testing.assert_close(run("cuda"), run("cpu"), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "amp", "fp16", "bf16"])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_run(method, precision, tmp_path):
    """Train, save and classify on the GPU, other classes too; the CPU loads the checkpoint and gives about the same."""
    words = ("USE_CUDA", True, "PREC", precision, "OPTIM.LR", 1e-3)
    trainer = train_on_four(method, tmp_path, *words)
    trainer.train()
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {"cuda"}
    images = draw_images(tiny_vit())
    with torch.no_grad():
        trainer.model.eval()
        logits = trainer.model_inference(images.to("cuda")).cpu()
        other = train_on_four(method, tmp_path, "OUTPUT_DIR", str(tmp_path / "on the CPU"))
        if learned_state(other.model):
            other.load_model(str(tmp_path / "out"))
        other.model.eval()
        expected = other.model_inference(images)
    classifier = Classifier.load(tmp_path / "out", device="cuda")
    torch.testing.assert_close(classifier(images).logits, logits, atol=1e-2, rtol=1e-2)
    if not classifier.model.fixed_classes:
        assert classifier.with_classes(["a cat", "a dog"])(images).logits.isfinite().all()
    assert (logits - expected).abs().max() < (1e-2 if precision == "fp32" else 0.1) * expected.std().clamp(min=1)


@pytest.mark.parametrize("method", ["ALIGN", "MaPLe", "CoOp"])
def test_compiled_blocks_train_as_without(method, tmp_path):
    states = []
    for backend in ("", "inductor"):
        torch.manual_seed(0)
        places = ("OUTPUT_DIR", str(tmp_path / f"out{backend}"), "TRAIN.COMPILE", backend)
        trainer = train_on_four(method, tmp_path, "USE_CUDA", True, *places)
        trainer.train()
        states.append(learned_state(trainer.model))
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)


def test_the_memory_limit_holds():
    """Free memory of the device limits a step that names no limit, and --max-memory one that does."""
    from scripts.bench import measure

    case = {"kind": "step", "method": "MMP", "backbone": "ViT-B-32-quickgelu", "device": "cuda", "precision": "fp32"}
    case |= {"threads": 0, "classes": 400, "prompts": 4, "images": 4, "path": "ours", "repeat": 1}
    limited, free = (measure.measure({**case, "max_memory": limit})["peak_gb"] for limit in (2.0, 0.0))
    assert limited <= 2.0 < free
