"""The README's example runs, and its tree is the tree."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_example_runs(capsys):
    (example,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", README, re.S)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"error 0\.0\d+ of full scale", printed)
    assert "physical core" in printed


def test_every_path_of_the_tree_exists():
    (tree,) = re.findall(r"```text\n(.*?)```", README, re.S)
    folder = ""
    paths = []
    for line in tree.splitlines():
        name = line.split()[0]
        folder = name if not line.startswith(" ") else folder
        paths.append(name if name == folder else folder + name)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert len(paths) > 15
    assert not missing


def test_every_command_is_listed():
    from physnn.__main__ import COMMANDS

    listed = set(re.findall(r"^\| `physnn ([\w-]+)", README, re.M))
    names = {command.__name__.replace("_", "-") for command in COMMANDS}
    assert listed == names | {"train"}
