r"""compel's prompt syntax.

word++ (some words)--         times 1.1 or 0.9 for each sign; (some words)1.3 times 1.3; nested weights multiply
("a", "b").blend(0.3, 0.7)    the weighted sum of two encodings; with no_normalize the weights stay as they are
("a", "b").and(1, 0.5)        the encodings side by side, the second half as strong
a (big cat).swap(dog) b       read as `a big cat b`: mlxdiff has no cross-attention control
withLora(NAME, 0.8)           a LoRA
\( \) \"                      the characters themselves

compel_grammar.py reads it; here is what the nodes mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...errors import RequestError
from .compel_grammar import Lora, Node, Operation, Parser, Swap, Weighed
from .prompt import Entry, Fragment, Network, Part, Prompt, Run, Section, Term, check_parts, check_text

MAX_DEPTH = 60


def parse(text: str, run: Run) -> Prompt:
    """Raises RequestError where compel refuses the prompt, or its brackets are nested too deeply."""
    check_text(text)
    spaced = re.sub(r",(\S)", r", \1", text)
    if not spaced.strip():
        return _prompt(text, run, [Section((Term((Fragment(""),)),))], _Reading())
    _check_depth(spaced)
    spaced, reading = spaced.expandtabs(), _Reading()
    parser = Parser(spaced)
    operation = parser.operation(0)
    check_parts(0 if operation is None else len(operation.prompts))
    if operation is not None and operation.name in ("and", "add"):
        # compel ignores whatever follows.
        weights = _weights(operation.options, len(operation.prompts))
        terms = [reading.term(nodes) for nodes in operation.prompts]
        sections = [Section((term,), weight) for term, weight in zip(terms, weights, strict=True) if term is not None]
        return _prompt(text, run, sections, reading)
    start, before = parser.loras(0)
    reading.nodes(before, 1.0)
    operation = parser.operation(start)
    if operation is not None and operation.name == "blend":
        end, after = parser.loras(operation.end)
        if parser.skip(end) < len(spaced):
            raise RequestError(
                "A blend in the prompt is followed by more text.", 'End it there: ("a", "b").blend(0.5, 0.5).'
            )
        sections = [_blend(operation, reading)]
    else:
        nodes, _ = parser.top(start)
        after = ()
        term = reading.term(nodes)
        sections = [] if term is None else [Section((term,))]
    reading.nodes(after, 1.0)
    return _prompt(text, run, sections, reading)


def _prompt(text: str, run: Run, sections: list[Section], reading: _Reading) -> Prompt:
    if not sections:
        sections = [Section((Term((Fragment(""),)),))]
    networks = tuple(Network("lora", (lora.name, f"{lora.weight:g}")) for lora in reading.loras)
    return Prompt((Part((Entry(run.calls, text, tuple(sections)),)),), networks, tuple(reading.ignored))


def _blend(operation: Operation, reading: _Reading) -> Section:
    options = list(operation.options)
    normalized = not (options and options[-1] == "no_normalize")
    weights = _weights(options if normalized else options[:-1], len(operation.prompts))
    if any(isinstance(node, Swap) for nodes in operation.prompts for node in nodes):
        raise RequestError("A blend in the prompt holds a .swap().", "Use one of the two.")
    terms = [(reading.term(nodes), weight) for nodes, weight in zip(operation.prompts, weights, strict=True)]
    if any(term is None for term, _ in terms):
        raise RequestError("A blend in the prompt holds a prompt without text.", "Give each some text.")
    if normalized and sum(weights) == 0:
        raise RequestError("The weights of a blend in the prompt add up to 0.", "Change one, or add no_normalize.")
    return Section(tuple(Term(term.pieces, weight) for term, weight in terms if term is not None), 1.0, normalized)


def _weights(options: list[str], count: int) -> list[float]:
    try:
        weights = [float(option) for option in options]
    except ValueError:
        raise RequestError(
            f"The prompt's .blend() or .and() has an option that is no number, among {', '.join(options)[:80]}.",
            "Give one weight a prompt.",
        ) from None
    if weights and len(weights) != count:
        raise RequestError(
            f"The prompt's .blend() or .and() has {len(weights)} weights for {count} prompts.",
            "Give one weight a prompt, or none.",
        )
    return weights or [1.0] * count


def _check_depth(text: str) -> None:
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")" and depth > 0)
        if depth > MAX_DEPTH:
            raise RequestError(
                f"The prompt's brackets are nested more than {MAX_DEPTH} deep.",
                r"Remove some, or write \( for a bracket.",
            )


@dataclass
class _Reading:
    """What is met on the way from nodes to fragments."""

    loras: list[Lora] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def term(self, nodes: tuple[Node, ...]) -> Term | None:
        """Neighbours of equal weight joined by a space; None where there is no text at all."""
        runs: list[tuple[list[str], float]] = []
        for text, weight in self.nodes(nodes, 1.0):
            if runs and runs[-1][1] == weight:
                runs[-1][0].append(text)
            else:
                runs.append(([text], weight))
        # compel unescapes whenever it makes a fragment: at first, when it weighs it, and when it joins it to another.
        pieces = tuple(
            Fragment(_plain(" ".join(texts)) if len(texts) > 1 else texts[0], weight) for texts, weight in runs
        )
        return Term(pieces) if pieces else None

    def nodes(self, nodes: tuple[Node, ...], scale: float) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for node in nodes:
            if isinstance(node, str):
                found.append((_plain(_plain(node)), scale))
            elif isinstance(node, Weighed):
                found += self.nodes(node.nodes, scale * node.weight)
            elif isinstance(node, Lora):
                self.loras.append(node)
            else:
                self.ignored.append(".swap()")
                found += self.nodes(node.nodes or ("",), scale)
        return found


def _plain(text: str) -> str:
    return text.replace("\\(", "(").replace("\\)", ")").replace('\\"', '"')
