"""The one registry: names, read from the cards that lie beside the experts. Listing reads cards only; an expert is imported when it is asked for."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from headwater.errors import UsageError, nearest, place_of
from headwater.paths import expert_root

Kind = Literal["upstream", "downstream", "pretrain"]
KINDS: tuple[Kind, ...] = ("upstream", "downstream", "pretrain")
CARD_FILES = {"upstream": "cards.yaml", "downstream": "card.yaml", "pretrain": "card.yaml"}

# What the base of a plugin's class is called -> its kind; all others are upstreams.
_BASES: dict[str, Kind] = {"Task": "downstream", "Objective": "pretrain", "MaskedReconstruction": "pretrain"}
_INSIDE = re.compile(r"(?!\.)[A-Za-z0-9_.+=-]+(/(?!\.)[A-Za-z0-9_.+=-]+)*")


class Weights(BaseModel):
    """Where an upstream's weights are: at an address, and then under the name `file` in the cache, or `bundled` with the card.

    What is not known of them is left out: their own sha256, licence, the corpora they saw, the number of parameters of the upstream.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(None, pattern=r"^https?://[!-.0-~]+(/[!-~]*)?$")
    file: str | None = None
    bundled: str | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    licence: str | None = None
    corpora: list[str] = Field(default_factory=list)
    parameters: int | None = None
    note: str | None = None

    @field_validator("file", "bundled")
    @classmethod
    def _stays_inside(cls, name: str | None) -> str | None:
        if name is not None and not _INSIDE.fullmatch(name):
            raise ValueError(
                "a relative name of letters, digits and . _ + = - / is needed, no part beginning with a dot"
            )
        return name

    @model_validator(mode="after")
    def _are_somewhere(self) -> Weights:
        if (self.url is None) != (self.file is None) or (self.url is None) == (self.bundled is None):
            raise ValueError("weights have `url` and `file`, or `bundled`")
        return self


class Card(BaseModel):
    """What can be known of an upstream, task or objective without importing torch."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Kind
    folder: Path
    expert: str
    summary: str
    paper: str | None = None
    aliases: list[str] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    plugin: Path | None = None

    # upstreams
    short_input: str | None = None
    long_input: str | None = None
    padding_invariant: bool = True
    warning: str | None = None
    weights: Weights | None = None
    demo: str | None = None  # the card whose weights this name means in a run on the demo corpus
    needs_ckpt: bool = False  # it is nothing without a weight file of the user's
    small: dict[str, Any] = Field(
        default_factory=dict
    )  # settings that make a quick model of it, with random_weights, for checks
    prefix: str | None = None  # names that begin so are this card's, and what stands behind is its setting `source`

    # tasks
    data: str | None = None
    recipe: str | None = None  # whose settings are the default, below `config`
    demo_config: dict[str, Any] = Field(default_factory=dict)  # over both on the demo corpus, which is small
    scorer: str | None = None  # class in scoring.py beside this card, for `headwater score`

    def load(self) -> Any:
        """Import the expert module and return the class that the card names."""
        return self._class(self.expert, "expert")

    def load_scorer(self) -> Any:
        """Import the module `scoring` beside the expert and return the class that the card names. `UsageError` where it names none."""
        if self.scorer is None:
            raise UsageError(f"{self.kind} {self.name!r} does not score files: its card names no `scorer`")
        return self._class(self.scorer, "scoring")

    def _class(self, name: str, module_name: str) -> Any:
        module = (
            _import_plugin(self.plugin, self.folder, module_name)
            if self.plugin
            else importlib.import_module(f"headwater.{self.kind}.{self.folder.name}.{module_name}")
        )
        try:
            return getattr(module, name)
        except AttributeError:
            raise UsageError(
                f"{self.kind} {self.name!r}: {module.__file__} has no class {name!r}, which its card names"
            ) from None


class Registry:
    """Names of one kind -> cards. Reading is lazy and happens once; duplicates raise."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._cards: dict[str, Card] | None = None
        self._aliases: dict[str, str] = {}

    @property
    def cards(self) -> dict[str, Card]:
        if self._cards is None:
            self._cards = {}
            root = expert_root(self.kind)
            for file in sorted(root.glob(f"*/{CARD_FILES[self.kind]}")):
                self._read(file)
        return self._cards

    def _read(self, file: Path, plugin: Path | None = None, *, replace: bool = False) -> None:
        try:
            entries = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{file}: not readable as a card ({error})") from None
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise UsageError(
                f"{file}: a card file maps names to entries, such as `my_model: {{expert: MyModel, summary: ...}}`"
            )
        for name, entry in entries.items():
            try:
                card = Card(name=name, kind=self.kind, folder=file.parent, plugin=plugin, **entry)
            except (ValidationError, TypeError) as error:
                raise UsageError(f"{file}: the entry {name!r} is not a card: {error}") from None
            self.add(card, replace=replace)

    def add(self, card: Card, *, replace: bool = False) -> None:
        """Enter a card. A name or alias that another one holds raises `UsageError`; with `replace`, another plugin gives way."""
        cards = self.cards
        for name in (card.name, *card.aliases):
            holder = cards.get(name) or cards.get(self._aliases.get(name, ""))
            if holder is None:
                continue
            again = (holder.folder, holder.name) == (card.folder, card.name)
            if not again and not (replace and holder.plugin is not None):
                raise UsageError(
                    f"{self.kind} {name!r} is registered twice: by {holder.name} in {holder.folder} and by {card.name} in {card.folder}; rename one "
                    "(in a single file, a class whose name starts with _ is not registered)"
                )
            del cards[holder.name]
            self._aliases = {alias: target for alias, target in self._aliases.items() if target != holder.name}
        cards[card.name] = card
        self._aliases.update(dict.fromkeys(card.aliases, card.name))

    def __getitem__(self, name: str) -> Card:
        cards = self.cards
        card = cards.get(name) or cards.get(self._aliases.get(name, "")) or self._prefixed(name)
        if card is None:
            noun = "objective" if self.kind == "pretrain" else self.kind
            where = f"`headwater ls {noun}s` (or `python -m headwater ls {noun}s`) lists all {len(cards)}"
            raise UsageError(f"unknown {noun} {name!r}.{nearest(name, [*cards, *self._aliases])} {where}.")
        return card

    def _prefixed(self, name: str) -> Card | None:
        for card in self.cards.values():
            if card.prefix and name.startswith(card.prefix) and name != card.prefix:
                config = {**card.config, "source": name.removeprefix(card.prefix)}
                return card.model_copy(update={"name": name, "config": config, "needs_ckpt": False})
        return None

    def __iter__(self) -> Iterator[Card]:
        return iter(self.cards.values())

    def names(self) -> list[str]:
        """All names and aliases."""
        return [*self.cards, *self._aliases]


upstreams = Registry("upstream")
downstreams = Registry("downstream")
objectives = Registry("pretrain")
registries: dict[Kind, Registry] = {"upstream": upstreams, "downstream": downstreams, "pretrain": objectives}


def add_plugin(path: str | Path, *, replace: bool = False) -> None:
    """Register what a file or folder of the user's holds; with `replace` in the place of other plugins of the same names.

    A folder has `cards.yaml` (upstreams) or `card.yaml` (tasks) beside its `expert.py`, or holds such folders. A single Python file needs no card: every
    public class at its top level is a name: of a task where its base is called `...Task`, of an objective where it is `...Objective`, else of an upstream.
    Nothing is executed before it is asked for.
    """
    path = Path(path).expanduser().resolve()
    if path.is_file() and path.suffix == ".py":
        _add_file(path, replace)
        return
    if not path.is_dir():
        raise UsageError(f"--plugin {path}: neither a Python file nor a folder")
    found = False
    for folder in [path, *sorted(child for child in path.glob("**") if child.is_dir() and child != path)]:
        for kind, registry in registries.items():
            file = folder / CARD_FILES[kind]
            if (
                not file.is_file()
                # Tasks and objectives have cards of one name: an objective lies in a folder `pretrain`.
                or (kind != "upstream" and (kind == "pretrain") != (folder.parent.name == "pretrain"))
            ):
                continue
            registry._read(file, plugin=path, replace=replace)
            found = True
    if not found:
        raise UsageError(
            f"--plugin {path}: no cards.yaml (upstreams) or card.yaml (tasks) in it; docs/own_upstream.md shows one"
        )


def _add_file(path: Path, replace: bool) -> None:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:  # ValueError: another encoding, zero bytes
        raise UsageError(f"--plugin {path}: not a Python file ({error})") from None
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    if not classes:
        raise UsageError(f"--plugin {path}: no class at its top level")
    for node in classes:
        summary = (ast.get_docstring(node) or f"class {node.name} of {path.name}").splitlines()[0]
        bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
        kind: Kind = next((_BASES[end] for end in _BASES if any(base.endswith(end) for base in bases)), "upstream")
        card = Card(name=node.name, kind=kind, folder=path, expert=node.name, summary=summary, plugin=path)
        registries[kind].add(card, replace=replace)


def _import_plugin(plugin: Path, folder: Path, module_name: str = "expert") -> ModuleType:
    """Import a plugin's module under a name of its own, so that it can never shadow, nor be shadowed by, another package."""
    name = f"headwater_plugin_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    source = folder
    if folder.suffix != ".py":
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__ = [str(folder)]
        name, source = f"{name}.{module_name}", folder / f"{module_name}.py"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None or not source.is_file():
        raise UsageError(f"--plugin {plugin}: {source} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"--plugin {plugin}: importing {source} failed: {type(error).__name__}: {error} ({place_of(error)})"
        ) from error
    return module
