"""`moco-tf upload`: what is checked, what is sent, and what is not."""

import importlib.util
import json
import shutil
import sys
import types

import pytest
from pretrained_runs import write_run

from moco_tf.cli import main
from moco_tf.interchange.card import CARD

RESULTS = {"protocol": "knn", "figures": {"top1": 0.5}, "encoder": {"weights": ""}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def saved(made, tmp_path):
    """A SavedModel with results and a picture beside it."""
    saved = shutil.copytree(made / "saved_model", tmp_path / "encoder")
    (saved / "report" / "knn").mkdir(parents=True)
    (saved / "report" / "knn" / "results.json").write_text(json.dumps(RESULTS))
    (saved / "report" / "neighbours.png").write_bytes(b"of somebody")
    return saved


class Hub(types.ModuleType):
    """Stands for huggingface_hub, and keeps what it is asked."""

    def __init__(self, token="hf_x", fails=False):
        super().__init__("huggingface_hub")
        self.asked, self.sent = [], {}
        hub = self

        class HfApi:
            def create_repo(self, repo_id, private, exist_ok):
                assert exist_ok
                hub.asked.append((repo_id, private))
                return f"https://hub.example/{repo_id}"

            def create_commit(self, repo_id, operations, commit_message):
                if fails:
                    raise ConnectionError("401 Client Error\nmore")
                assert commit_message
                hub.sent.update(operations)

        self.HfApi = HfApi
        self.CommitOperationAdd = lambda name, file: (name, file)
        self.get_token = lambda: token
        self.__spec__ = importlib.util.spec_from_loader("huggingface_hub", None)


@pytest.fixture
def hub(monkeypatch):
    def put(**kwargs):
        made = Hub(**kwargs)
        monkeypatch.setitem(sys.modules, "huggingface_hub", made)
        return made

    return put


def upload(*words):
    return main(["upload", *map(str, words)])


def test_encoder_and_card_are_sent_and_nothing_of_the_images(saved, hub, capsys):
    stub = hub()
    assert upload(saved, "--repo=me/encoder", "--license=mit") == 0
    assert stub.asked == [("me/encoder", True)]
    assert {"README.md", "saved_model.pb", "assets.extra/check.py",
            "assets.extra/provenance.json", "variables/variables.index",
            "assets.extra/golden/expected.json"} <= set(stub.sent)  # fmt: skip
    assert not [name for name in stub.sent if "report" in name or name == CARD]
    assert stub.sent["README.md"] == str(saved / CARD)
    assert "\nlicense: mit\n" in (saved / CARD).read_text()
    assert "are at https://hub.example/me/encoder." in capsys.readouterr().out
    assert upload(saved, "--repo=me/encoder", "--public") == 0
    assert stub.asked[1] == ("me/encoder", False)
    assert "\nlicense: mit\n" in (saved / CARD).read_text()


def test_rehearsal_of_a_run_needs_no_library_and_sends_nothing(
    made, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert upload(made, "--repo=me/encoder", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "  README.md\n" in printed and "  saved_model.pb\n" in printed
    assert "would go to me/encoder; nothing was sent." in printed


@pytest.mark.parametrize(
    ("words", "token", "sentence"),
    [
        (["--repo=encoder"], "x", "--repo=encoder is no repository.*USER/NAME"),
        (["--repo=me/encoder"], None, "no token.*hf auth login.*HF_TOKEN"),
        ([], "x", "--repo"),
    ],
)
def test_mistakes_are_one_sentence(saved, hub, words, token, sentence, capsys):
    stub = hub(token=token)
    assert upload(saved, *words) == 2
    assert not stub.asked
    _assert_sentence(capsys, sentence)


def test_missing_library_is_told_with_its_installation(saved, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name, *rest: None if name == "huggingface_hub" else find(name, *rest),
    )  # fmt: skip
    assert upload(saved, "--repo=me/encoder") == 2
    _assert_sentence(capsys, r"pip install huggingface_hub.*moco_tf\[hub\]")


def test_what_the_hub_refuses_is_told(saved, hub, capsys):
    hub(fails=True)
    assert upload(saved, "--repo=me/encoder") == 2
    _assert_sentence(capsys, "me/encoder was not uploaded .401 Client Error")


def test_changed_encoder_is_not_sent(saved, hub, capsys):
    stub = hub()
    golden = saved / "assets.extra" / "golden" / "expected.json"
    document = json.loads(golden.read_text())
    document["features"][0] += 1.0
    golden.write_text(json.dumps(document))
    assert upload(saved, "--repo=me/encoder") == 2
    _assert_sentence(capsys, "features that differ by .*export it again")
    assert upload(saved.parent / "none", "--repo=me/encoder") == 2
    _assert_sentence(capsys, "none does not exist")
    assert not stub.asked


def _assert_sentence(capsys, pattern):
    import re

    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert re.search(pattern, error), error


@pytest.mark.filterwarnings("ignore")  # its own
def test_the_library_takes_files_and_card(saved, monkeypatch, capsys):
    hub = pytest.importorskip("huggingface_hub", reason="moco_tf[hub] is not installed")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    sent = {}

    def commit(self, repo_id, operations, **_):
        sent.update({one.path_in_repo: one for one in operations})

    monkeypatch.setattr(hub.HfApi, "create_repo", lambda self, repo_id, **_: repo_id)
    monkeypatch.setattr(hub.HfApi, "create_commit", commit)
    assert upload(saved, "--repo=me/encoder", "--license=mit") == 0
    size = (saved / "saved_model.pb").stat().st_size
    assert sent["saved_model.pb"].upload_info.size == size
    card = hub.ModelCard((saved / CARD).read_text())
    assert card.data.license == "mit" and card.data.library_name == "tensorflow"
    assert card.data.pipeline_tag == "image-feature-extraction"
