"""The pages of the documentation, their blocks, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer

from segue.cli.commands import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
SHELLS = ("sh", "bash", "console")
NOT_RUN = "<!-- not run: "
COMMANDS = typer.main.get_command(app)


@dataclass(frozen=True)
class Block:
    """A fenced block with the last line before it that is not empty."""

    line: int
    language: str
    text: str
    before: str

    @property
    def file(self):
        """What a first line such as `# my.yaml` calls it."""
        named = re.match(r"# (\S+\.yaml)\n", self.text)
        return named and named[1]


def blocks(page, *languages):
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        before = page.read_text()[: match.start()]
        last = before.strip().splitlines()[-1]
        if match[1] in languages:
            found.append(Block(before.count("\n") + 2, match[1], match[2], last))
    return found


def commands(page):
    """Every command of the shell blocks: its words, without comments."""
    for block in blocks(page, *SHELLS):
        yield from commands_of(block)


def commands_of(block):
    """Every command of a shell block: its words, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
        tokens.whitespace_split = True
        words = []
        for token in tokens:
            if set(token) <= set("&|;<>()"):
                yield words
                words = []
            else:
                words.append(token)
        yield words


def segue_arguments(words):
    """What follows `segue` in a command, also behind variables, torchrun or python -m; or None."""
    for index, word in enumerate(words):
        first = all("=" in before for before in words[:index])
        if Path(word).name == "segue" and (first or words[index - 1] == "-m"):
            return words[index + 1 :]
    return None


def parsed(arguments):
    """The parameters of the command that arguments reach, by name; nothing is executed."""
    command, name = COMMANDS, "segue"
    while hasattr(command, "commands"):
        assert arguments, f"{name}: which command?"
        name, *arguments = arguments
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    return command.make_context(name, list(arguments)).params


def write_recipes(page, folder):
    """Writes the page's recipes into a folder, and returns the names of those with stages.

    One without is only there for others to extend.
    """
    named = [block for block in blocks(page, "yaml") if block.file]
    for block in named:
        (folder / block.file).write_text(block.text)
    return [block.file for block in named if re.search(r"^stages:", block.text, re.MULTILINE)]


def heading_slugs(page):
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
