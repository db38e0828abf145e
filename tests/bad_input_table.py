"""Bad inputs by kind; docs/errors.md has the line that each of them gets."""

import numpy as np
import torch
from bad_input import (
    DONE,
    IMAGE,
    LABEL,
    MODEL,
    RUN,
    SIZE,
    Bad,
    altered,
    bomb,
    checkpoint_with,
    cut,
    delete,
    described,
    harmful,
    harmful_archive,
    picture,
    together,
    weights,
    write,
)
from dataset_files import random_image

PREDICT = f"predict {MODEL} data/target/images -o out"
AGAIN = f"{RUN} --work-dir {DONE}"
NET = "stages.train.networks.segmenter"
WEIGHTS_FILE = f"{RUN} {NET}.weights=w.pth"
TERM = "stages.train.terms"
RECIPE_TEXT = (
    Bad("no such file", "run absent.yaml"),
    Bad("no such shipped recipe", "run advent-dmo"),
    Bad("an empty file", "run r.yaml", write("r.yaml", "")),
    Bad("a list", "run r.yaml", write("r.yaml", "- a\n")),
    Bad("a tab for indentation", "run r.yaml", write("r.yaml", "a:\n\tb: 1\n")),
    Bad("a bracket left open", "run r.yaml", write("r.yaml", "a: [1, 2\n")),
    Bad("bytes that are no UTF-8", "run r.yaml", write("r.yaml", b"a: \xff\n")),
    Bad("a key that stands twice", "run r.yaml", write("r.yaml", "seed: 1\nseed: 2\n")),
    Bad("two documents", "run r.yaml", write("r.yaml", "a: 1\n---\nb: 2\n")),
    Bad("a date for a number", "run r.yaml", write("r.yaml", "seed: 2001-13-45\n")),
    Bad("a number of 5,000 digits", "run r.yaml", write("r.yaml", f"seed: {'9' * 5000}\n")),
    Bad("300,000 brackets", "run r.yaml", write("r.yaml", "a: " + "[" * 300_000)),
    Bad("a list inside itself", "run r.yaml", write("r.yaml", "a: &a [*a]\n")),
    Bad(
        "aliases that unfold to 5 million values",
        "run r.yaml",
        write(
            "r.yaml",
            "".join(
                f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'x'] * 9)}]\n" for i in range(7)
            ),
        ),
    ),
    Bad(
        "a Python object",
        "run r.yaml",
        write("r.yaml", "seed: !!python/object/apply:os.system ['touch harm']\n"),
    ),
    Bad("a recipe that extends itself", "run r.yaml", write("r.yaml", "base: r.yaml\n")),
    Bad("a base that is not there", "run r.yaml", write("r.yaml", "base: other.yaml\n")),
)
RECIPE = (
    Bad("an unknown key", f"{RUN} itterations=3"),
    Bad("a misspelt key of a stage", f"{RUN} stages.train.itterations=3"),
    Bad("a missing key", f"{RUN} stages.train.iterations=null"),
    Bad("no label space", f"{RUN} label_space=null"),
    Bad("no stages", f"{RUN} stages=null"),
    Bad("a word for a number", f"{RUN} seed=seven"),
    Bad("a negative seed", f"{RUN} seed=-1"),
    Bad("a seed of 24 digits", f"{RUN} seed={10**23}"),
    Bad("no iterations", f"{RUN} stages.train.iterations=0"),
    Bad("more iterations than can be counted", f"{RUN} stages.train.iterations={10**23}"),
    Bad("a size of one number", f"{RUN} stages.train.source.size=64"),
    Bad("a size of 0", f'{RUN} "stages.train.source.size=[0, 32]"'),
    Bad(
        "a size that no memory holds",
        f'{RUN} "stages.train.source.size=[2000000000, 2000000000]"',
    ),
    Bad("an unknown precision", f"{RUN} precision=float8"),
    Bad("an unknown device", f"{RUN} device=gpu"),
    Bad("a GPU where there is none", f"{RUN} device=cuda"),
    Bad("a newer format", f"{RUN} format=2"),
    Bad("a name that leads out", f"{RUN} name=../../x"),
    Bad(
        "a stage's name that leads out",
        "run r.yaml",
        write("r.yaml", "base: good.yaml\nstages:\n  ../../x: {like: train}\n  evaluate: null\n"),
    ),
    Bad(
        "a network's name that leads out",
        "run r.yaml",
        write(
            "r.yaml", "base: good.yaml\nstages: {train: {networks: {../../x: {kind: generator}}}}\n"
        ),
    ),
    Bad("an unknown kind of stage", f"{RUN} stages.train.kind=trian"),
    Bad("an unknown dataset kind", f"{RUN} data.source.kind=gta6"),
    Bad("an unknown loss", f"{RUN} {TERM}.segmentation.kind=cross-entropy"),
    Bad("a Python path for a loss", f"{RUN} {TERM}.segmentation.kind=os.system"),
    Bad("an unknown setting of a loss", f"{RUN} {TERM}.alignment.path=32"),
    Bad("a weight that is no number", f"{RUN} {TERM}.alignment.weight=.nan"),
    Bad("an unknown network", f"{RUN} {NET}.kind=deeplab"),
    Bad("an unknown backbone", f"{RUN} {NET}.backbone=resnet1001"),
    Bad("a backbone from elsewhere", f"{RUN} {NET}.backbone=hf-hub:someone/model"),
    Bad("an unknown batch norm", f"{RUN} {NET}.batch_norm=frozen"),
    Bad("an unknown optimiser", f"{RUN} {NET}.optimiser=sdg"),
    Bad("a negative rate", f"{RUN} {NET}.optimiser.lr=-1"),
    Bad("a momentum beyond 1", f"{RUN} {NET}.optimiser.momentum=-2"),
    Bad("an unknown schedule", f"{RUN} {NET}.schedule=cosine"),
    Bad("a schedule of zero length", f'{RUN} "{NET}.schedule={{kind: step, every: 0}}"'),
    Bad("a trained network without optimiser", f"{RUN} {NET}.optimiser=null"),
    Bad("a dataset that is not described", f"{RUN} stages.train.target.data=tagret"),
    Bad("a view that is not there", f"{RUN} {TERM}.segmentation.view=souce"),
    Bad("a model of a later stage", f'{RUN} "stages.evaluate.models=[later]"'),
    Bad("no models", f'{RUN} "stages.evaluate.models=[]"'),
    Bad("heads that sum to nothing", f'{RUN} "stages.evaluate.heads={{main: 0}}"'),
    Bad(
        "a feature that the network lacks",
        f'{RUN} "{TERM}.style={{kind: style_gram, features: [layer9]}}"',
    ),
    Bad("a template that is not there", f'{RUN} "stages.again={{like: trian}}"'),
    Bad("templates that are no mapping", f"{RUN} templates=3"),
    Bad("rounds without stages", f'{RUN} "stages.rounds={{repeat: 2}}"'),
    Bad("a dataset and a stage of one name", f'{RUN} "stages.source={{like: train}}"'),
    Bad("classes named twice", f'{RUN} "label_space.classes=[road, road, sky]"'),
    Bad("no classes", f'{RUN} "label_space.classes=[]"'),
    Bad("a colour of two values", f'{RUN} "label_space.colours=[[1, 2]]"'),
    Bad("a protocol of no such class", f'{RUN} "label_space.protocols={{a: [raod]}}"'),
    Bad("an unknown protocol", f"{RUN} protocols=[19]"),
    Bad("a raw id beyond 16 bits", f'{RUN} "data.source.ids={{70000: road}}"'),
    Bad("an id of no class", f'{RUN} "data.source.ids={{0: raod}}"'),
    Bad("a train id beyond the classes", f'{RUN} "data.source.ids={{0: 7}}"'),
    Bad(
        "a crop of no size",
        f'{RUN} "stages.train.source.augment=[{{kind: random_crop, size: [0, 0]}}]"',
    ),
    Bad(
        "a negative quantile",
        f'{RUN} "stages.labels={{kind: pseudo_label, data: target, size: [64, 32], '
        'models: [train], rule: {kind: confidence, quantile: -1}}"',
    ),
)
DATASET = (
    Bad("no such folder", f"{RUN} data.source.root=data/nowhere"),
    Bad("a file for a folder", f"{RUN} data.source.root=good.yaml"),
    Bad("no image matches", f"{RUN} data.source.images=images/*.jpg"),
    Bad("an absolute pattern", f"{RUN} data.source.images=/images/*.png"),
    Bad("a pattern that leads out", f"{RUN} data.source.images=../*/images/*.png"),
    Bad("an unknown placeholder", f'{RUN} "data.source.labels=labels/{{name}}.png"'),
    Bad(
        "a placeholder that reaches into objects",
        f'{RUN} "data.source.labels=labels/{{stem.__class__}}.png"',
    ),
    Bad("a missing label", RUN, delete(LABEL)),
    Bad("`first` that is no image", f"{RUN} data.source.first=c"),
    Bad("`first` after `last`", f"{RUN} data.source.first=b data.source.last=a"),
    Bad(
        "Cityscapes without its folders",
        f'{RUN} "data.source={{kind: cityscapes, root: data/source, ids: {{7: road}}}}"',
    ),
    Bad("labels wanted where there are none", f"{RUN} stages.train.source.data=target"),
    Bad(
        "links that lead nowhere",
        RUN,
        lambda folder: (folder / "data/source/images/c.png").symlink_to("gone.png"),
    ),
    Bad(
        "a broken ZIP file",
        f"{RUN} data.source.root=data.zip",
        write("data.zip", b"PK\x03\x04 and no more"),
    ),
)
IMAGES = (
    Bad("an empty file", RUN, write(IMAGE, b"")),
    Bad("a web page called .png", RUN, write(IMAGE, "<html>404</html>")),
    Bad("half a PNG", RUN, cut(IMAGE)),
    Bad("half a JPEG", RUN, together(picture(IMAGE, random_image(1, SIZE), "jpeg"), cut(IMAGE))),
    Bad("a PNG of 40,000 x 40,000", RUN, write(IMAGE, bomb(40_000, 40_000))),
    Bad(
        "PostScript called .png, which PIL would have run",
        RUN,
        write(IMAGE, "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"),
    ),
    Bad(
        "a folder called .png",
        "predict runs/done p.png -o out",
        lambda folder: (folder / "p.png").mkdir(),
    ),
    Bad("an image that is not there", "predict runs/done p.png -o out"),
    Bad("one of two that is damaged", "predict runs/done data/source/images -o out", cut(IMAGE)),
    Bad(
        "a name of two lines",
        "predict runs/done photos -o out",
        write("photos/two\nlines.png", b"no image"),
    ),
)
LABELS = (
    Bad("half a PNG", RUN, cut(LABEL)),
    Bad("a JPEG", RUN, picture(LABEL, np.zeros(SIZE[::-1], np.uint8), "jpeg")),
    Bad("a colour picture", RUN, picture(LABEL, random_image(1, SIZE))),
    Bad(
        "fractions (TIFF, 32-bit float)",
        RUN,
        picture(LABEL, np.zeros(SIZE[::-1], np.float32), "tiff"),
    ),
    Bad(
        "negative ids (TIFF, 32-bit)",
        RUN,
        picture(LABEL, np.full(SIZE[::-1], -1, np.int32), "tiff"),
    ),
    Bad("another size than the image", RUN, picture(LABEL, np.zeros((8, 8), np.uint8))),
    Bad("an id that is not listed", RUN, picture(LABEL, np.full(SIZE[::-1], 7, np.uint8))),
    Bad("a PNG of 40,000 x 40,000", RUN, write(LABEL, bomb(40_000, 40_000))),
)
WEIGHTS = (
    Bad("no such file", WEIGHTS_FILE),
    Bad("a text file", WEIGHTS_FILE, write("w.pth", "no weights")),
    Bad(
        "a text file called .safetensors",
        f"{RUN} {NET}.weights=w.safetensors",
        write("w.safetensors", "no weights"),
    ),
    Bad("a pickle that runs code", WEIGHTS_FILE, harmful("w.pth")),
    Bad("the same as torch packs it", WEIGHTS_FILE, harmful_archive("w.pth")),
    Bad(
        "a list of tensors",
        WEIGHTS_FILE,
        lambda folder: torch.save([torch.zeros(1)], folder / "w.pth"),
    ),
    Bad(
        "weights of another network",
        WEIGHTS_FILE,
        lambda folder: torch.save({"a": torch.zeros(1)}, folder / "w.pth"),
    ),
    Bad(
        "half a file",
        f"{RUN} {NET}.load_from=w.safetensors",
        together(weights("w.safetensors", dict), cut("w.safetensors")),
    ),
    Bad(
        "another shape",
        f"{RUN} {NET}.load_from=w.pth",
        weights(
            "w.pth",
            lambda state: {
                k: v[:1] if "classifier" in k or "head" in k else v for k, v in state.items()
            },
        ),
    ),
    Bad(
        "tensors left out",
        f"{RUN} {NET}.load_from=w.pth",
        weights("w.pth", lambda state: dict(list(state.items())[:-1])),
    ),
    Bad("`load_from` that is nothing", f"{RUN} {NET}.load_from=traim"),
    Bad("`load_from` of a file that is not there", f"{RUN} {NET}.load_from=w.pth"),
    Bad("a folder without a model", "predict data data/target/images -o out"),
    Bad("a model that is not there", "predict m.safetensors data/target/images -o out"),
    Bad(
        "weights without description",
        "predict w.safetensors data/target/images -o out",
        weights("w.safetensors", dict),
    ),
    Bad("half a model", PREDICT, cut(MODEL)),
    Bad("a byte of a model altered", PREDICT, altered(MODEL)),
    Bad(
        "a description without classes",
        PREDICT,
        described(lambda told: told.replace("label_space", "labels")),
    ),
    Bad(
        "a newer format",
        PREDICT,
        described(lambda told: told.replace('"format": 1', '"format": 3')),
    ),
    Bad(
        "a description of another network",
        PREDICT,
        described(lambda told: told.replace("test_resnet", "resnet10t")),
    ),
)
RUNS = (
    Bad("begun with other settings", f"{RUN} --work-dir {DONE} seed=1"),
    Bad(
        "the newest checkpoint a pickle that runs code",
        AGAIN,
        together(
            delete(f"{DONE}/train/done.json"),
            harmful_archive(f"{DONE}/train/checkpoints/iteration_000002.pt"),
        ),
    ),
    Bad(
        "a checkpoint whose seal is right and whose networks are gone",
        AGAIN,
        checkpoint_with(lambda state: state.pop("networks")),
    ),
    Bad(
        "a checkpoint of a network of another shape",
        AGAIN,
        checkpoint_with(
            lambda state: state["networks"]["segmenter"]["module"].update(
                {"encoder.model.conv1.0.weight": torch.zeros(7)}
            )
        ),
    ),
    Bad(
        "a checkpoint that does not say which seed",
        AGAIN,
        checkpoint_with(lambda state: state.pop("seed")),
    ),
    Bad("a checkpoint from beyond the end", AGAIN, checkpoint_with(lambda _: None, iteration=9)),
    Bad("a damaged settings.json", AGAIN, write(f"{DONE}/train/settings.json", "{")),
    Bad("a damaged done.json", AGAIN, write(f"{DONE}/train/done.json", "")),
    Bad("a damaged recipe.yaml", f"evaluate {DONE}", write(f"{DONE}/recipe.yaml", "{")),
    Bad("a damaged evaluation.json", AGAIN, write(f"{DONE}/evaluate/evaluation.json", "{")),
    Bad(
        "an evaluation.json of fewer classes than it names",
        f"report {DONE} --panels 0 -o r.html",
        write(
            f"{DONE}/evaluate/evaluation.json",
            '{"classes": ["road", "car", "sky"], "confusion": [[1]], "protocols": {"3": [0, 1, 2]},'
            ' "images": 2}',
        ),
    ),
    Bad("a damaged environment.json", f"replay {DONE}", write(f"{DONE}/environment.json", "{")),
    Bad(
        "a damaged seconds.json",
        f"report {DONE} --panels 0 -o r.html",
        write(f"{DONE}/train/seconds.json", "[1"),
    ),
    Bad(
        "a metrics.jsonl that holds none",
        f"replay {DONE}",
        write(f"{DONE}/train/metrics.jsonl", b"[1]\n\xff\n"),
    ),
    Bad("a deleted model", f"evaluate {DONE}", delete(MODEL)),
    Bad("a folder that holds no run", "evaluate data"),
    Bad("a file for a work_dir", f"{RUN} --work-dir good.yaml"),
    Bad("a work_dir below a file", f"{RUN} --work-dir good.yaml/run"),
)
COMMANDS = (
    Bad("an unknown command", "rnu good.yaml", code=2),
    Bad("no recipe", "run", code=2),
    Bad("an unknown option", f"{RUN} --gpus 2", code=2),
    Bad("an option without its value", f"{RUN} --work-dir", code=2),
    Bad("a setting without value", f"{RUN} seed"),
    Bad("a setting without key", f"{RUN} =1"),
    Bad("a value that is not YAML", f'{RUN} "seed=["'),
    Bad("a setting of a setting", f"{RUN} seed.of=1"),
    Bad("too few seeds", "sweep good.yaml --seeds 0", code=2),
    Bad("a sweep over nothing", "sweep good.yaml seed=[]"),
    Bad("a sweep's setting without value", "sweep good.yaml seed"),
    Bad("an unknown ablation", "sweep good.yaml --ablation losses"),
    Bad("an unknown list", "list optimisers"),
    Bad("an unknown system", "demo --system yours"),
    Bad("an unknown device", f"predict {DONE} data/target/images -o out --device tpu"),
    Bad("an output that is a file", f"predict {DONE} data/target/images -o good.yaml"),
    Bad("an output that is the input", f"predict {DONE} data/target/images -o data/target/images"),
    Bad("a folder without images", f"predict {DONE} runs/done/train/checkpoints -o out"),
    Bad("a patch size that is none", "analyse layout-shift good.yaml --patches 32,big"),
    Bad("a dataset without labels", "analyse layout-shift good.yaml --target target"),
    Bad("a plugin that is not there", f"{RUN} --plugin mine.py"),
    Bad(
        "a plugin that does not run",
        f"{RUN} --plugin own_broken.py",
        write("own_broken.py", "import nothing_of_this_name\n"),
    ),
    Bad(
        "a plugin with a module's name",
        f"{RUN} --plugin torch.py",
        write("torch.py", "LOSSES = {}\n"),
    ),
    Bad("a plugin without parts", f"{RUN} --plugin own_empty.py", write("own_empty.py", "x = 1\n")),
    Bad(
        "a plugin with a loss that there is",
        f"{RUN} --plugin own_twice.py",
        write("own_twice.py", "LOSSES = {'min_ent': dict}\n"),
    ),
)
GROUPS = {
    "Recipes: the text": RECIPE_TEXT,
    "Recipes: what they say": RECIPE,
    "Datasets": DATASET,
    "Images": IMAGES,
    "Labels": LABELS,
    "Weights and models": WEIGHTS,
    "Runs and checkpoints": RUNS,
    "Command line": COMMANDS,
}
