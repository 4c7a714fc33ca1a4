"""Hand-written sentences around a class name, for the methods that learn no text."""

from open_clip import OPENAI_IMAGENET_TEMPLATES

from prompting.clip.tokens import clean_name

DEFAULT = "a photo of a {}."
ENSEMBLE = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)  # the 80 sentences of CLIP's ImageNet

# The seven sentences that suffice for ImageNet (CLIP's notebook on prompt engineering).
SELECT = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# By registry name of the data set (CoOp, appendix A; the Mini sets are this project's). Others read DEFAULT.
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    "MiniDigits": "a photo of the {}.",
    "MiniFood": "a photo of a {}, a type of food.",
}


def template_for(dataset: str) -> str:
    """Return the sentence of a data set by its registry name; "a photo of a {}." if it is not listed."""
    return TEMPLATES.get(dataset, DEFAULT)


def templates_for(dataset: str) -> tuple[str, ...]:
    """Return the sentences of Tip-Adapter's classifier: seven for ImageNet, else that of ``template_for``."""
    return SELECT if dataset == "ImageNet" else (template_for(dataset),)


def fill(template: str, classname: str) -> str:
    """Return ``template`` with the class name filled in; underscores become spaces.

    Raises:
        ValueError: the template has no ``{}``.
    """
    if "{}" not in template:
        raise ValueError(f"template {template!r} has no {{}} for the class name")
    return template.replace("{}", clean_name(classname))
