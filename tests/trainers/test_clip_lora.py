"""CLIP-LoRA: equal to dense weights W + s B A, its schedule of iterations, and published files."""

import copy

import pytest
import torch
import torch.nn.functional as F

from prompting.checkpoint import learned_state
from prompting.clip import TextEncoder, VisionEncoder
from prompting.methods.clip_lora import blocks_at
from tests.reference.methods import build, draw_images, relearn, tiny_vit, train_on_four

ALL = ("PARAMS", ("q", "k", "v", "o"), "R", 3, "ALPHA", 2, "DROPOUT_RATE", 0.0)


def dense(model, scale):
    """A copy of the CLIP with W + s B A in place of W, and the update's tensors as leaves of its graph."""
    clip, leaves = copy.deepcopy(model.clip), {}
    for tower, root in (("text", clip), ("visual", clip.visual)):
        for i, updates in getattr(model.prompt_learner.towers, tower, {}).items():
            attn, d = root.transformer.resblocks[int(i)].attn, root.transformer.width
            changed = {"in_proj_weight": attn.in_proj_weight.clone(), "out_proj.weight": attn.out_proj.weight.clone()}
            for name, update in updates.items():
                a, b = (t.detach().clone().requires_grad_() for t in (update.w_lora_A, update.w_lora_B))
                row = "qkv".find(name[0]) * d if name != "proj" else 0
                key = "out_proj.weight" if name == "proj" else "in_proj_weight"
                rows = torch.zeros_like(changed[key])
                rows = torch.cat([rows[:row], scale * b @ a, rows[row + d :]])
                changed[key] = changed[key] + rows
                leaves.update({f"{tower}.{i}.{name}.w_lora_A": a, f"{tower}.{i}.{name}.w_lora_B": b})
            del attn.in_proj_weight, attn.out_proj.weight
            attn.in_proj_weight, attn.out_proj.weight = changed["in_proj_weight"], changed["out_proj.weight"]
    return clip, leaves


@pytest.mark.parametrize(("reading", "scale"), [("released", 2 / 3**0.5), ("corrected", 2 / 3)])
@pytest.mark.parametrize(("encoder", "position"), [("both", "all"), ("text", "up"), ("vision", "half-bottom")])
def test_equals_dense_weights(reading, scale, encoder, position):
    """Loss and gradients, by the towers on changed weights."""
    words = ("READING", reading, "ENCODER", encoder, "POSITION", position)
    model, images, labels = relearn(build("CLIP_LoRA", *ALL, *words)), draw_images(tiny_vit()), torch.tensor([0, 2])
    clip, leaves = dense(model, scale)
    image = F.normalize(VisionEncoder(clip)(images).prompt[:, 0], dim=-1)
    text = F.normalize(TextEncoder(clip)(model.tokens).prompt[:, 0], dim=-1)
    factor = model.logit_scale if reading == "corrected" else 100
    expected = F.cross_entropy(factor * image @ text.T, labels)
    loss, _ = model.training_loss(images, labels)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    loss.backward()
    expected.backward()
    learned = {name.removeprefix("prompt_learner.towers."): t for name, t in learned_state(model).items()}
    assert set(learned) == set(leaves) and len(learned) == 2 * 4 * {"both": 6, "text": 1, "vision": 1}[encoder]
    for name, tensor in learned.items():
        torch.testing.assert_close(tensor.grad, leaves[name].grad, atol=1e-4, rtol=1e-3, msg=name)


def test_starts_as_clip_and_drops_out_in_training_only():
    images = draw_images(tiny_vit())
    zero_shot = build("ZeroshotCLIP")
    with torch.no_grad():
        start = build("CLIP_LoRA", "READING", "corrected", "DROPOUT_RATE", 0.5).train()
        torch.testing.assert_close(start(images), zero_shot(images), atol=1e-4, rtol=1e-4)
        model = relearn(start)
        assert not torch.equal(model(images), model(images))
        assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize(
    ("position", "blocks"),
    [
        ("all", range(12)), ("bottom", range(4)), ("mid", range(4, 8)), ("up", range(8, 12)),
        ("half-bottom", range(6)), ("half-up", range(6, 12)), ("top3", range(9, 12)), ("top", range(11, 12)),
    ],
)  # fmt: skip
def test_positions_of_twelve_blocks(position, blocks):
    assert blocks_at(position, 12) == blocks


def test_schedule_of_iterations(tmp_path):
    """4 iterations for each of 2 shots are 4 epochs of 2 batches; the rate follows torch's cosine."""
    words = ("N_ITERS", 4, "DATASET.NUM_SHOTS", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 1, "OPTIM.MAX_EPOCH", 1)
    trainer = train_on_four("CLIP_LoRA", tmp_path, *words, "OPTIM.LR", 0.01, "OPTIM.WARMUP_EPOCH", 1)
    seen, step = [], trainer.forward_backward
    trainer.forward_backward = lambda batch: seen.append(trainer.get_current_lr()) or step(batch)
    trainer.train()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
    schedule, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8, eta_min=1e-6), []
    for _ in range(8):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert (trainer.max_epoch, seen) == (4, pytest.approx(expected))
    assert trainer.get_current_lr() == pytest.approx(1e-6)


def test_iterations_need_shots(tmp_path):
    with pytest.raises(ValueError, match="TRAINER.CLIP_LORA.N_ITERS is 500 for each shot, but DATASET.NUM_SHOTS is -1"):
        train_on_four("CLIP_LoRA", tmp_path, "N_ITERS", 500).train()


def published(model, metadata):
    """A file as CLIP-LoRA saves it: layers counted over both towers, text first."""
    layers = [block for tower in model.prompt_learner.towers.values() for block in tower.values()]
    weights = {
        f"layer_{i}": {name: dict(u.state_dict()) for name, u in layer.items()} for i, layer in enumerate(layers)
    }
    return {"weights": weights, "metadata": metadata}


METADATA = {"r": 2, "alpha": 1, "encoder": "both", "params": ["q", "k", "v"], "position": "all"}


def test_published_file(tmp_path):
    trainer = train_on_four("CLIP_LoRA", tmp_path)
    source = relearn(copy.deepcopy(trainer.model))
    torch.save(published(source, METADATA), tmp_path / "lora_weights.pt")
    trainer.load_model(str(tmp_path))
    images = draw_images(tiny_vit())
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval()(images), source.eval()(images))
    torch.save(published(source, {**METADATA, "alpha": 2}), tmp_path / "lora_weights.pt")
    with pytest.raises(ValueError, match="was trained with alpha 2; this model has 1"):
        trainer.load_model(str(tmp_path))


def test_a_published_file_that_is_damaged_is_named(tmp_path):
    trainer = train_on_four("CLIP_LoRA", tmp_path)
    good, file = published(trainer.model, METADATA), tmp_path / "lora_weights.pt"
    block = good["weights"]["layer_0"]
    nan = {"q_proj": {**block["q_proj"], "w_lora_A": block["q_proj"]["w_lora_A"] * float("nan")}}
    for content, words in (
        (torch.nn.Linear(1, 1), "never read"),
        ([1], "no file of CLIP-LoRA"),
        ({**good, "weights": {"layer_x": block}}, "no file of CLIP-LoRA"),
        ({**good, "weights": {"layer_99": block}}, "has a layer 99"),
        ({**good, "weights": {"layer_0": {"q_proj": {"w_lora_A": [1.0]}}}}, "lacks"),
        ({**good, "weights": {**good["weights"], "layer_0": {**block, **nan}}}, "training that failed"),
    ):
        torch.save(content, file)
        with pytest.raises(ValueError, match=words) as error:
            trainer.load_model(str(tmp_path))
        assert str(file) in str(error.value) and "weights_only" not in str(error.value)
    torch.save(good, file)
    flipped = bytearray(file.read_bytes())
    flipped[flipped.index(block["q_proj"]["w_lora_A"].detach().numpy().tobytes())] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match="lora_weights.pt: it is damaged"):
        trainer.load_model(str(tmp_path))
