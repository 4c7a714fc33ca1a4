"""``torch.export`` of every method: the model as it is, for batches of any size, or a clear refusal."""

import pytest
import torch

from prompting.methods.align import ALIGN
from prompting.methods.plot import TransportCLIP
from tests.reference.methods import METHODS, build, draw_images, relearn, tiny_vit
from tests.reference.params import long_but

TRANSPORT = [name for name, trainer in METHODS.items() if issubclass(trainer.model_class, (ALIGN, TransportCLIP))]
WHOLE = [name for name in METHODS if name not in (*TRANSPORT, "CoCoOp")]

pytestmark = pytest.mark.skipif(torch.__version__ < "2.7", reason="needs torch 2.7")


def program(model, images, **more):
    return torch.export.export(model, (images,), strict=False, **more).module()


def any_number():
    return {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=512)},)}


@pytest.mark.slow
@pytest.mark.parametrize("method", long_but(WHOLE, "CoOp", "MaPLe"))
def test_the_program_gives_the_logits_and_follows_the_learned_tensors(method):
    model, images = relearn(build(method)).eval(), draw_images(tiny_vit(), 5)
    exported = program(model, images[:2], **any_number())
    for number in (5, 1):
        torch.testing.assert_close(exported(images[:number]), model(images[:number]), rtol=0, atol=1e-4)
    learned = {name: tensor for name, tensor in exported.named_parameters() if tensor.requires_grad}
    assert learned.keys() == {name for name, tensor in model.named_parameters() if tensor.requires_grad}


@pytest.mark.slow
def test_cocoop_has_programs_of_one_batch_size():
    """It runs one prompt of each class for each image, and the positions that run depend on their number."""
    model, images = relearn(build("CoCoOp")).eval(), draw_images(tiny_vit(), 2)
    torch.testing.assert_close(program(model, images)(images), model(images), rtol=0, atol=1e-4)
    with pytest.raises(torch._dynamo.exc.UserError, match="batch.* to be a constant"):
        program(model, images, **any_number())


@pytest.mark.slow
@pytest.mark.parametrize("method", TRANSPORT)
def test_a_transport_that_stops_by_its_data_is_refused_with_the_form_to_export(method):
    with pytest.raises(ValueError, match=r"the transport stops by its data.* prompting\.export\.convert\.portable"):
        program(build(method).eval(), draw_images(tiny_vit()))
