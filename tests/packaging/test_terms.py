"""The product's vocabulary: the terms of its field in names, components as subjects in texts."""

from __future__ import annotations

import re

from ..support.source_tree import FOLDERS, ROOT, assert_none, modules, words

# fmt: off
METAPHORS = {
    "attendant", "attendants", "beat", "beats", "blame", "blamed", "books", "clerk", "crew",
    "custody", "desk", "docket", "exhibit", "exhibits", "foresee", "grounds", "imprint", "ledger",
    "patience", "patiently", "ratchet", "seal", "sealed", "seals", "shelf", "standing", "standings",
    "stopwatch", "studio", "tally", "teller", "tether", "vitals", "vouch", "vouches", "wishes",
}
# fmt: on
"""Words that a newcomer cannot guess; the glossary of infra/docs has the field's terms for them."""
# Subjects are components (redesign of the texts), so these words are refused; here they are data.
PERSONS = re.compile(r"\b(somebody|nobody|whoever|anybody|everybody|told)\b", re.IGNORECASE)
FROZEN = {'"told"'}
"""String constants that are data: a field in Redis."""


def test_names_are_terms_of_the_field() -> None:
    stems = (
        f"{module.name}: {' '.join(sorted(found))}"
        for module in modules()
        if (found := METAPHORS & words(module.path.stem))
    )
    definitions = (
        f"{module.name}:{node.lineno}: {node.name}"
        for module in modules()
        for node in module.definitions()
        if METAPHORS & words(node.name)
    )
    assert_none([*stems, *definitions])


def test_texts_speak_of_components_not_of_persons() -> None:
    assert_none(
        f"{module.name}:{line + skipped}: {text.strip()}"
        for module in modules()
        for line, block in module.texts()
        if block not in FROZEN
        for skipped, text in enumerate(block.splitlines())
        if PERSONS.search(text)
    )


def test_texts_beside_the_modules_speak_of_components_too() -> None:
    paths = (
        path
        for folder in FOLDERS
        for suffix in ("css", "html", "js", "lua", "toml")
        for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
    )
    assert_none(
        f"{path.relative_to(ROOT)}:{number}: {text.strip()}"
        for path in paths
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PERSONS.search(text)
    )
