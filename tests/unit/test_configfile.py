"""The experiment file: read with overrides, refused with place and remedy, shown with origins."""

import os
import re
from pathlib import Path

import pytest
from chexseg_platform.configfile import MAX_BYTES, ConfigError, flat, load, show

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
PLAIN = "name: x\ndata:\n  phantom: {}\n"


@pytest.fixture
def file(tmp_path):
    def write(text=PLAIN, name="study.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refused(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(str(path), "FILE")


def test_a_field_of_a_sweep_is_set_by_its_dotted_name(file):
    text = PLAIN + "tune: {space: {lr: [1e-3]}}\n"
    loaded = load(file(text), ["tune.space.saliency.threshold=[otsu, 0.5]"])
    assert loaded.experiment.tune.space == {"lr": [1e-3], "saliency.threshold": ["otsu", 0.5]}
    assert loaded.origin("tune.space.saliency.threshold") == "--set"
    assert loaded.origin("tune.space.lr") == "study.yaml:4"


def test_a_file_and_its_defaults(file):
    loaded = load(file(PLAIN + "segmenter:\n  lr: 3e-4\n  epochs: 5\n"))
    segmenter = loaded.experiment.segmenter
    assert (segmenter.lr, segmenter.epochs, segmenter.batch_size) == (3e-4, 5.0, 8)


NO_FIELD = "there is no such field. Did you mean"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("segmenter:\n  lrr: 1", 5, f"segmenter.lrr: {NO_FIELD} segmenter.lr?"),
        ("segmentor: {}", 4, f"segmentor: {NO_FIELD} segmenter?"),
        ("lr: 1", 4, f"lr: {NO_FIELD} classifier.lr or saliency.irnet.lr or segmenter.lr?"),
        ("segmenter:\n  augment:\n    flipp: 1", 6, "Did you mean segmenter.augment.flip?"),
        ("evaluation: {flip: 1}", 4, "mean classifier.augment.flip or saliency.irnet.augment.flip"),
        ("evaluation: {zzz: 1}", 4, "There: split, resamples, cluster, seed, overlays."),
        ("arms:\n  a: {epoch: 3}", 5, f"arms.a.epoch: {NO_FIELD} arms.a.epochs?"),
        ("arms:\n  a: {augment: {flop: 1}}", 5, "Did you mean arms.a.augment.flip?"),
        ("tune:\n  space:\n    expert_probabilty: [0]", 6, "mean tune.space.expert_probability?"),
        ("tune: {space: {saliency.treshold: [0]}}", 4, "mean tune.space.saliency.threshold?"),
        ("tune: {space: {clasifier.lr: [1]}}", 4, "Did you mean tune.space.classifier?"),
        ("tune: {space: {cutof: [0.5]}}", 4, "Did you mean saliency.cutoff?"),
        ("tune: {space: {segmenter.lr: [0]}}", 4, "tune.space.segmenter.lr: 0 will not do"),
        ("integer: 3", 4, "integer: there is no such field."),
        ("float: 3", 4, "float: there is no such field."),
        ("1: 3", 4, "1: there is no such field. There: name, "),
        ("segmenter:\n  lr: no", 5, "segmenter.lr: 'no' will not do: it should be a valid number"),
        ("segmenter:\n  batch_size: 1.5", 5, "1.5 will not do: it should be a valid integer"),
        ("segmenter:\n  expert_probability: 2", 5, "it should be less than or equal to 1"),
        ("segmenter:\n  loss: dise", 5, "it should be 'dice', 'bce' or 'dice+bce'"),
        ("resources: {workers: two}", 4, "it should be a valid integer or 'auto'"),
        ("segmenter: {threshold: 1.5}", 4, "it should be 'tuned' or less than or equal to 1"),
        ("saliency:", 4, "saliency: null will not do: it should be a section"),
        ("arms: {a: }", 4, "arms.a: null will not do: it should be a section"),
        ("seed: {a: 1}", 4, "seed: a section will not do: it should be a valid integer"),
        ("seeds: [0, 0]", 4, "seeds: the same seed twice would count one training as two"),
        ("name: y", 4, "name is given twice (first on 1)"),
        ("seed: 010", 4, "seed: '010' will not do"),
        ("arms: {}", 4, "arms: it is empty; give at least 1"),
        ("seeds: []", 4, "seeds: it is empty; give at least 1"),
        ("tune: {space: {}}", 4, "tune.space: it is empty; give at least 1"),
        ("seed: -1", 4, "seed: -1 will not do: it should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_one_problem_names_line_field_value_and_remedy(file, text, line, words):
    message = refused(file(PLAIN + text))
    assert message.startswith(f"FILE:{line}: ")
    assert words in message
    assert "\n" not in message


def test_all_problems_at_once_arms_and_overrides_among_them(file):
    path = file(PLAIN + "seed: x\nsegmenter:\n  lrr: 1\narms:\n  a: {lr: 0}\n")
    lines = refused(path, "classifier.epochs=-1").splitlines()
    starts = sorted(line.rpartition(": ")[0].split(": ")[0] for line in lines)
    assert len(lines) == 4
    assert starts == ["--set classifier.epochs", "FILE:4", "FILE:6", "FILE:8"]


def test_an_empty_section_by_an_override(file):
    assert refused(file(PLAIN), "arms={}") == "--set arms: it is empty; give at least 1"


def test_missing_fields_and_sources(file):
    assert refused(file("name: x\n")) == "FILE: data is missing"
    assert refused(file("data: {phantom: {}}\n")) == "FILE: name is missing"
    source = "data: give one of data.phantom, data.tables and data.collections"
    assert refused(file("name: x\ndata: {}\n")) == f"FILE:2: {source}"
    both = "name: x\ndata:\n  phantom: {}\n  tables: [{table: t.csv, split: train}]\n"
    assert refused(file(both)) == f"FILE:2: {source}"
    item = "name: x\ndata:\n  tables:\n    - split: train\n    - {table: a, split: tset}\n"
    first, second = refused(file(item)).splitlines()
    assert first == "FILE:4: data.tables.0.table is missing"
    assert second.startswith("FILE:5: data.tables.1.split: 'tset' will not do")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("collections: [{layout: folder, root: x}]", "no labels of findings"),
        ("phantom: {layout: jsrt}", "no labels of findings"),
        ("phantom: {layout: jstr}", "data.phantom.layout: 'jstr' will not do"),
        ("phantom: {layout: folder, train: 0}", "train above 0"),
        ("collections: [{layout: jsrt}]", "data.collections.0.root is missing"),
        (
            "collections: [{layout: folder, root: x, valid: 0.5, test: 0.5}]",
            "valid and test together must be below 1",
        ),
    ],
)
def test_collections_that_will_not_do(file, data, said):
    assert said in refused(file(f"name: x\ndata:\n  {data}\n"))


@pytest.mark.parametrize("text", ["", "[1, 2]", "hello", "42", "null"])
def test_a_file_of_something_else(file, text):
    assert "is no experiment file: it should start with `name: ...`" in refused(file(text))


def test_files_that_cannot_be_read(file, tmp_path):
    path = file()
    assert refused(tmp_path / "studi.yaml").endswith(f"Did you mean {path}?")
    assert refused(tmp_path / "zzz.yaml").endswith("There: study.yaml.")
    gone = tmp_path / "nowhere" / "a.yaml"
    assert refused(gone) == "there is no experiment file FILE."
    assert "cannot be read: Is a directory" in refused(tmp_path)
    path.write_bytes(b"name: \xff\xfe")
    assert "is no text in UTF-8" in refused(path)
    path.write_text("#" * (MAX_BYTES + 1))
    assert "is larger than 1 MiB" in refused(path)
    assert "is larger than 1 MiB" in refused(Path("/dev/zero"))


def test_overrides_of_every_kind(file):
    path = file(
        "name: x\ndata:\n  tables:\n  - {table: a.csv, split: train}\n"
        "segmenter: {augment: {rotate: 5, flip: 0.1}}\nevaluation:\n"
    )
    loaded = load(
        path,
        [
            "segmenter.lr=3e-4", "data.tables.0.limit=7", "evaluation.cluster=image",
            "segmenter.augment={flip: 0.5}", "saliency.splits=[train]", "name= y ",
            "segmenter.expert_masks=", "seed=1", "seed=2",
        ],
    )  # fmt: skip
    made = loaded.experiment
    assert (made.name, made.seed, made.segmenter.lr) == ("y", 2, 3e-4)
    assert made.data.tables[0].limit == 7
    assert made.evaluation.cluster == "image"
    assert (made.segmenter.augment.flip, made.segmenter.augment.rotate) == (0.5, 0.0)
    assert made.saliency.splits == ["train"]
    origins = {
        "segmenter.lr": "--set", "data.tables.0.limit": "--set",
        "data.tables.0.split": "study.yaml:4",
        "segmenter.augment.flip": "--set", "segmenter.augment.rotate": "default",
        "segmenter.epochs": "default", "data.size": "default", "data.tables.0.truth": "default",
        "saliency.splits": "--set", "evaluation.resamples": "default",
    }  # fmt: skip
    assert {key: loaded.origin(key) for key in origins} == origins


def test_one_field_of_one_default_arm(file):
    made = load(file(), ["arms.mix.lr=1e-3"]).experiment
    assert list(made.arms) == ["expert only", "pseudo only", "mix"]
    assert made.arm("mix").lr == 1e-3
    assert made.arm("expert only").lr == 1e-4
    made = load(file(PLAIN + "arms: {a: {}}\n"), ["arms.a.lr=1e-3"]).experiment
    assert list(made.arms) == ["a"]
    assert load(file(), ["arms.pseudo only.epochs=2"]).experiment.arm("pseudo only").epochs == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("segmenter.lr", "--set 'segmenter.lr': write it as field=value"),
        ("=3", "write it as field=value"),
        ("segmenter.lrr=3", f"--set segmenter.lrr: {NO_FIELD} segmenter.lr?"),
        ("segmentr.lr=3", f"--set segmentr: {NO_FIELD} segmenter?"),
        ("segmenter.lr.x=3", "--set segmenter.lr: a section will not do: it should be"),
        ("seeds.5=3", "--set seeds.5: '5' is no position in a list of 2"),
        ("seeds.x=3", "--set seeds.x: 'x' is no position in a list of 2"),
        ("seeds.²=3", "is no position in a list"),
        ("seeds.0.x=3", "--set seeds.0.x: seeds.0 is no section"),
        ("name.x=3", "--set name.x: name is no section"),
        ("name.x.y=3", "--set name.x.y: name is no section"),
        ("segmenter.lr=[1", "--set segmenter.lr:1: "),
        ("segmenter.lr=!!python/name:os.system", "--set segmenter.lr:1: tags are not allowed"),
        ("data.phantom={siz: 64}", "--set data.phantom.siz: there is no such field."),
        ("data.size=8", "--set data.size: 8 will not do"),
        (".=1", "there is no such field"),
    ],
)  # fmt: skip
def test_overrides_that_are_refused(file, override, words):
    assert words in refused(file(PLAIN + "seeds: [0, 1]\n"), override)


def test_paths_start_at_the_file_wherever_one_stands(file, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    path = file(
        "name: x\ndata:\n  tables:\n  - {table: ../data/train.csv, split: train, root: /images,"
        " truth: gt.json}\n  - {table: ~/v.csv, split: valid, labels: ~nobody-here/l.csv}\n",
        "studies/study.yaml",
    )
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    for given in (path, os.path.relpath(path)):
        first, second = load(given).experiment.data.tables
        assert first.table == str(tmp_path / "data/train.csv")
        assert (first.root, first.truth) == ("/images", str(tmp_path / "studies/gt.json"))
        assert first.benchmark is None
        assert second.table == "/home/someone/v.csv"
        assert second.labels == str(tmp_path / "studies/~nobody-here/l.csv")


WEIGHTS = """\
name: x
data: {tables: [{table: t.csv, split: train}]}
classifier: {weights: w}
segmenter: {init: "segmenter:s"}
arms: {a: {init: "segmenter:../a"}, b: {init: classifier}, c: {init: "segmenter:s3://b/c?x=y"}}
tune: {space: {init: [random, "segmenter:t"], classifier.weights: [null, imagenet, w]}}
resources: {cache: c}
"""


def test_weights_and_cache_start_at_the_file_too(file, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "work").mkdir()
    path, here = file(WEIGHTS, "studies/study.yaml"), tmp_path / "studies"
    monkeypatch.chdir(tmp_path / "work")
    made = load(path).experiment
    assert made.classifier.weights == str(here / "w")
    assert made.segmenter.init == f"segmenter:{here / 's'}"
    assert made.arm("a").init == f"segmenter:{tmp_path / 'a'}"
    assert made.arm("b").init == "classifier"
    assert made.arm("c").init == "segmenter:s3://b/c?x=y"
    assert made.tune.space["init"] == ["random", f"segmenter:{here / 't'}"]
    assert made.tune.space["classifier.weights"] == [None, "imagenet", str(here / "w")]
    dotted = load(file(WEIGHTS.replace("{init: [r", "{segmenter.init: [r"), "studies/other.yaml"))
    assert dotted.experiment.tune.space["segmenter.init"] == ["random", f"segmenter:{here / 't'}"]
    assert made.resources.cache == str(here / "c")
    assert load(file(PLAIN + "classifier: {weights: imagenet}")).experiment.classifier.weights == (
        "imagenet"
    )


GRID = (
    PLAIN
    + """pretrain: {segmenter: {init: "segmenter:p"}}
finetune:
  tasks:
    organs: {collections: [{layout: jsrt, root: j, masks: s}]}
    mine: {collections: [{layout: folder, root: /m}]}
  initialisations: {random: random, doll: "pretrained:doll", other: "segmenter:o"}
"""
)


def test_paths_of_fine_tunings_start_at_the_file_too(file, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    path, here = file(GRID, "studies/study.yaml"), tmp_path / "studies"
    made = load(path).experiment
    (organs,) = made.finetune.tasks["organs"].collections
    assert (organs.root, organs.masks) == (str(here / "j"), str(here / "s"))
    assert made.finetune.tasks["mine"].collections[0].root == "/m"
    starts = {"random": "random", "doll": "pretrained:doll", "other": f"segmenter:{here / 'o'}"}
    assert made.finetune.initialisations == starts
    assert made.pretraining.init == f"segmenter:{here / 'p'}"


def test_paths_of_an_override_start_where_the_command_is_given(file, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "work").mkdir()
    path, here = file(WEIGHTS, "studies/study.yaml"), tmp_path / "work"
    monkeypatch.chdir(here)
    overrides = [
        "data.tables.0.truth=t.json", "classifier={weights: w}", "segmenter.init=segmenter:s",
        "arms.a.init=segmenter:a", "tune.space.init=[segmenter:t]", "resources.cache=c",
        "tune.space.classifier.weights=[w]",
    ]  # fmt: skip
    made = load(path, overrides).experiment
    assert made.data.tables[0].truth == str(here / "t.json")
    assert made.data.tables[0].table == str(tmp_path / "studies/t.csv")
    assert made.classifier.weights == str(here / "w")
    assert (made.segmenter.init, made.arm("a").init) == (
        f"segmenter:{here / 's'}",
        f"segmenter:{here / 'a'}",
    )
    assert made.tune.space["init"] == [f"segmenter:{here / 't'}"]
    assert made.tune.space["classifier.weights"] == [str(here / "w")]
    assert made.resources.cache == str(here / "c")
    assert load(path, ["segmenter.init=clasifier"]).experiment.segmenter.init == "clasifier"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_experiments_of_this_repository_are_read(path):
    assert load(path).experiment.name == path.stem


def test_flat_reaches_every_leaf():
    value = {"a": {"b": 1, "c": {}}, "d": [1, 2], "e": [{"f": None}, {"f": 2}], "g": []}
    assert dict(flat(value)) == {
        "a.b": 1, "a.c": {}, "d": [1, 2], "e.0.f": None, "e.1.f": 2, "g": [],
    }  # fmt: skip
    assert dict(flat(3, "x")) == {"x": 3}


def test_show_has_one_line_for_every_setting(file):
    loaded = load(file(PLAIN + "description: 'two\n\n  lines'\n"), ["segmenter.lr=3e-4"])
    lines = show(loaded).splitlines()
    assert len(lines) == len(dict(flat(loaded.experiment.model_dump())))
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["name"] == ["x", "study.yaml:1"]
    assert rows["segmenter.lr"] == ["0.0003", "--set"]
    assert rows["segmenter.expert_masks"] == ["null", "default"]
    assert rows["data.phantom.train"] == ["600", "default"]
    assert rows["description"][-1] == "study.yaml:4"


def test_what_is_shown_can_be_set(file):
    """Every line of `show` is an override that changes nothing."""
    loaded = load(file(PLAIN + "tune: {seeds: [3]}\n"))
    rows = [re.split("  +", line) for line in show(loaded).splitlines()]
    overrides = [f"{key}={value}" for key, value, _ in rows if key != "data.tables"]
    assert load(file(), overrides).experiment == loaded.experiment
