"""CoOp's fifteen data sets under its registry names and folders, one description each.

Prompt templates are in ``prompting.clip.templates``, by registry name.
"""

from functools import partial
from typing import Any

from . import readers
from .registry import Counts, Description, register

CALTECH_IGNORED = ("BACKGROUND_Google", "Faces_easy")
CALTECH_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}
PET_FILES = ("annotations/trainval.txt", "annotations/test.txt")
CAR_FILES = ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")
AIRCRAFT_FILES = ("images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt")
SCENE_FILES = ("Training_01.txt", "Testing_01.txt")
ACTION_FILES = ("ucfTrainTestlist/trainlist01.txt", "ucfTrainTestlist/testlist01.txt")
NAMES_FILE = ("classnames.txt",)
WNIDS = "{} class folders such as n01440764"


def _twice(*paths: str) -> tuple[tuple[str, str, str], ...]:
    """Mistakes of archives that were unpacked into a folder of the same name."""
    above = ((path, path.rpartition("/")[0]) for path in paths)
    return tuple((path, right, f"move its contents one folder up, into {right}") for path, right in above)


def _variant(
    name: str, folder: str, pattern: str, remark: str, classes: int, test: int, github: str,
    mistakes: tuple[tuple[str, str, str], ...] = (), read: Any = readers.wnid_folders,
) -> Description:  # fmt: skip
    """A variant of ImageNet, for tests only."""
    source = f"github.com/{github}; classnames.txt as in imagenet/"
    images, counts = pattern.partition("/")[0], Counts(classes, 0, 0, test)
    return Description(
        name, folder, "", images, True, None, read, ((pattern, remark),), source, counts, NAMES_FILE, mistakes
    )


DESCRIPTIONS = (
    Description(
        "ImageNet", "imagenet", "", "images", read=readers.imagenet,
        pictures=(
            ("images/train/*/*.JPEG", WNIDS.format("1,000")),
            ("images/val/*/*.JPEG", "the same class folders; val is the test"),
        ),
        files=NAMES_FILE,
        counts=Counts(1000, 1_281_167, 0, 50_000),
        source="image-net.org (ILSVRC2012); classnames.txt has CLIP's class names, a line `wnid name` each (CoOp)",
        mistakes=(
            ("train", "images/train", "move it into imagenet/images"),
            ("val", "images/val", "move it into imagenet/images"),
            *_twice("images/train/train", "images/val/val"),
        ),
    ),
    Description(
        "Caltech101", "caltech-101", "split_zhou_Caltech101.json", "101_ObjectCategories",
        read=partial(readers.from_class_folders, ignored=CALTECH_IGNORED, rename=CALTECH_NAMES),
        pictures=(("101_ObjectCategories/*/*.jpg", f"class folders; {' and '.join(CALTECH_IGNORED)} are ignored"),),
        counts=Counts(100, 4_128, 1_649, 2_465),
        source="data.caltech.edu (Caltech 101: 101_ObjectCategories.tar.gz)",
        mistakes=(
            ("caltech-101", "101_ObjectCategories", "move its contents one folder up"),
            ("101_ObjectCategories.tar.gz", "101_ObjectCategories", "unpack it here"),
            *_twice("101_ObjectCategories/101_ObjectCategories"),
        ),
    ),
    Description(
        "OxfordPets", "oxford_pets", "split_zhou_OxfordPets.json", "images",
        read=partial(readers.from_lists, files=PET_FILES, rows=readers.pet_rows),
        pictures=(("images/*.jpg", "such as Abyssinian_1.jpg"),),
        files=PET_FILES,
        counts=Counts(37, 2_944, 736, 3_669),
        source="www.robots.ox.ac.uk/~vgg/data/pets (images.tar.gz, annotations.tar.gz)",
        mistakes=_twice("images/images", "annotations/annotations"),
    ),
    Description(
        "StanfordCars", "stanford_cars", "split_zhou_StanfordCars.json", "",
        read=partial(readers.from_lists, files=CAR_FILES, rows=readers.car_rows),
        pictures=(("cars_train/*.jpg", "such as 00001.jpg"), ("cars_test/*.jpg", "such as 00001.jpg")),
        files=(*CAR_FILES, "devkit/cars_meta.mat"),
        counts=Counts(196, 6_509, 1_635, 8_041),
        source="ai.stanford.edu/~jkrause/cars (often offline; cars_train.tgz, cars_test.tgz, car_devkit.tgz)",
        # as copies on Kaggle unpack
        mistakes=(
            *_twice("cars_train/cars_train", "cars_test/cars_test"),
            ("car_devkit", "devkit", "move its devkit one folder up"),
        ),
    ),
    Description(
        "OxfordFlowers", "oxford_flowers", "split_zhou_OxfordFlowers.json", "jpg",
        read=readers.flowers,
        pictures=(("jpg/image_*.jpg", "image_00001.jpg to image_08189.jpg"),),
        files=("imagelabels.mat", "cat_to_name.json"),
        counts=Counts(102, 4_093, 1_633, 2_463),
        source="www.robots.ox.ac.uk/~vgg/data/flowers/102 (102flowers.tgz, imagelabels.mat); cat_to_name.json",
        mistakes=_twice("jpg/jpg"),
    ),
    Description(
        "Food101", "food-101", "split_zhou_Food101.json", "images", read=readers.from_class_folders,
        pictures=(("images/*/*.jpg", "101 class folders"),),
        counts=Counts(101, 50_500, 20_200, 30_300),
        source="data.vision.ee.ethz.ch/cvl/datasets_extra/food-101 (food-101.tar.gz)",
        mistakes=(("food-101", "images", "move its contents one folder up"), *_twice("images/images")),
    ),
    Description(
        "FGVCAircraft", "fgvc_aircraft", "", "images",
        read=partial(readers.from_lists, files=AIRCRAFT_FILES, rows=readers.aircraft_rows),
        pictures=(("images/*.jpg", "such as 0034309.jpg"),),
        files=("variants.txt", *AIRCRAFT_FILES),
        counts=Counts(100, 3_334, 3_333, 3_333),
        source="www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft (fgvc-aircraft-2013b.tar.gz: the contents of its data/)",
        mistakes=(
            ("data", "images", "move its contents one folder up"),
            ("fgvc-aircraft-2013b", "images", "move the contents of its data/ to fgvc_aircraft"),
        ),
    ),
    Description(
        "SUN397", "sun397", "split_zhou_SUN397.json", "SUN397",
        read=partial(readers.from_lists, files=SCENE_FILES, rows=readers.scene_rows),
        pictures=(("SUN397/*/**/*.jpg", "such as SUN397/a/abbey/sun_aaalbzqrimafwbiv.jpg"),),
        files=("ClassName.txt", *SCENE_FILES),
        counts=Counts(397, 15_880, 3_970, 19_850),
        source="vision.princeton.edu/projects/2010/SUN (SUN397.tar.gz, Partitions.zip)",
        mistakes=(*_twice("SUN397/SUN397"), ("Partitions", "Training_01.txt", "move its contents one folder up")),
    ),
    Description(
        "DescribableTextures", "dtd", "split_zhou_DescribableTextures.json", "images",
        read=readers.from_class_folders,
        pictures=(("images/*/*.jpg", "47 class folders"),),
        counts=Counts(47, 2_820, 1_128, 1_692),
        source="www.robots.ox.ac.uk/~vgg/data/dtd (dtd-r1.0.1.tar.gz)",
        mistakes=(("dtd", "images", "move its contents one folder up"), *_twice("images/images")),
    ),
    Description(
        "EuroSAT", "eurosat", "split_zhou_EuroSAT.json", "2750",
        read=partial(readers.from_class_folders, rename=EUROSAT_NAMES),
        pictures=(("2750/*/*.jpg", "10 class folders"),),
        counts=Counts(10, 13_500, 5_400, 8_100),
        source="github.com/phelber/EuroSAT (EuroSAT.zip, the RGB images)",
        mistakes=(
            ("EuroSAT", "2750", "rename it to 2750"),
            ("EuroSAT_RGB", "2750", "rename it to 2750"),
            *_twice("2750/2750"),
        ),
    ),
    Description(
        "UCF101", "ucf101", "split_zhou_UCF101.json", "UCF-101-midframes",
        read=partial(readers.from_lists, files=ACTION_FILES, rows=readers.action_rows),
        pictures=(("UCF-101-midframes/*/*.jpg", "such as Apply_Lipstick/v_ApplyLipstick_g01_c01.jpg"),),
        files=("ucfTrainTestlist/classInd.txt", *ACTION_FILES),
        counts=Counts(101, 7_639, 1_898, 3_783),
        source="UCF-101-midframes.zip (CoOp); www.crcv.ucf.edu/data/UCF101.php has the lists",
        mistakes=(
            *_twice("UCF-101-midframes/UCF-101-midframes"),
            ("UCF-101", "UCF-101-midframes", "videos are not read; UCF-101-midframes has the middle frame of each"),
        ),
    ),
    _variant(
        "ImageNetV2", "imagenetv2", "imagenetv2-matched-frequency-format-val/*/*.jpeg", "folders 0 to 999",
        1000, 10_000, "modestyachts/ImageNetV2 (matched-frequency)", read=readers.numbered_folders,
    ),
    _variant(
        "ImageNetSketch", "imagenet-sketch", "images/*/*.JPEG", WNIDS.format("1,000"), 1000, 50_889,
        "HaohanWang/ImageNet-Sketch",
        (("sketch", "images", "the folder of the archive; rename it to images"), *_twice("images/sketch")),
    ),
    _variant(
        "ImageNetA", "imagenet-adversarial", "imagenet-a/*/*.jpg", WNIDS.format("200"), 200, 7_500,
        "hendrycks/natural-adv-examples", _twice("imagenet-a/imagenet-a"),
    ),
    _variant(
        "ImageNetR", "imagenet-rendition", "imagenet-r/*/*.jpg", WNIDS.format("200"), 200, 30_000,
        "hendrycks/imagenet-r", _twice("imagenet-r/imagenet-r"),
    ),
)  # fmt: skip

CATALOG = {about.name: register(about) for about in DESCRIPTIONS}
