"""Run directories that have a page, and what is read out of one."""

import csv
import json
import re
from html.parser import HTMLParser

from moco_tf.config import dump, load_config

NAME = "<b>&'run\" </script>$x".replace("/", "\u2215")
EMPTY = ("meta", "link", "input", "img", "br")


class Page(HTMLParser):
    """What a page is made of; elements must be closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.texts, self.tags = [], [], [], []
        self.feed(text)
        assert not self.open
        self.words = " ".join(" ".join(self.texts).split())
        (told,) = re.findall(r'<script type="application/json" id="data">(.*?)</', text)
        self.data = json.loads(told)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        self.addresses += [
            found[key]
            for key in ("href", "src", "action", "data", "srcset")
            if key in found
        ]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(text)


def history(run, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(run / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def epochs(count, **changed):
    healthy = {"loss_ceiling": 6.93, "top1": 0.4, "top5": 0.6, "feature_std": 0.9,
               "effective_rank": 12.0, "input_wait": 0.01, "images_per_second": 256.0,
               "learning_rate": 0.06, "peak_memory_mib": 900.0}  # fmt: skip
    return [
        {"epoch": n, "loss": 7.0 - n / 2, **healthy, **changed}
        for n in range(1, count + 1)
    ]


def unfinished_run(tmp_path):
    """A run directory as training leaves it after 3 of 5 epochs."""
    run = tmp_path / NAME
    (run / "report" / "page").mkdir(parents=True)
    words = [f"runs_dir={tmp_path}", f"name={NAME}", "train.epochs=5"]
    (run / "config.yaml").write_text(dump(load_config(None, words)))
    rows = epochs(3)
    rows[1]["knn"], rows[2]["loss"] = 0.5, "nan"
    history(run, [{"epoch": 0, "knn": 0.25}, *rows])
    (run / "data.json").write_text('{"images": 1000, "steps_per_epoch": 7}')
    found = {"raw_pixels": {"knn": 0.3}, "untrained": {"knn": 0.25}}
    (run / "report" / "baselines.json").write_text(json.dumps(found))
    return run
