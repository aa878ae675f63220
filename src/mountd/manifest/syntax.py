"""The parser's errors in the words of a person who writes TOML.

tomli tells what it expected, and where it gave up. What is wrong stands before that, as often as
not: this looks there. An error that isn't known here keeps tomli's words.
"""

import re

from mountd.core.named_tuple import NamedTuple
from mountd.manifest.positions import lexemes, line_and_column, locate, statement_start
from mountd.manifest.spans import Span, dotted

_MOST_SHOWN = 60
_TOKEN = re.compile(r"[^\s,\[\]{}#=]+")
_BOOLEANS = {"true", "yes", "on", "false", "no", "off"}  # small or not
_BLANK = " \t\r\n"
_STATEMENT = 'write `key = "value"`, or `[header]`'


class SyntaxFault(NamedTuple):
    """Why a text is no TOML, where, and what to do."""

    span: Span
    message: str
    hint: str | None = None


def explain_syntax(text: str, said: str, offset: int) -> SyntaxFault:
    """What tomli said when it gave up at this offset, as it is to be understood."""
    fault = _explained(text, said, offset)
    return fault._replace(message=f"not TOML: {fault.message}")


def explain_excess(text: str) -> SyntaxFault:
    """What is beyond what the parser takes, and where: it doesn't say."""
    outermost = Span(0, 1)
    for lexeme in lexemes(text):
        if lexeme.is_bare and (found := _LONG_NUMBER.search(text, *lexeme.span)):
            return SyntaxFault(Span(*found.span()), "a number of so many digits can't be read")
        if lexeme.depth == 1 and text[lexeme.span.start] in "[{":
            outermost = lexeme.span
        if lexeme.depth > _DEEP:
            return SyntaxFault(outermost, "what is nested so deeply can't be read")
    fault = SyntaxFault(Span(0, 1), "this is TOML that can't be read")
    return explain_parts(text) or fault


_LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z_])[0-9][0-9_]{4000,}")
_DEEP = 100  # no parser minds that much


def explain_parts(text: str) -> SyntaxFault | None:
    """A key of far more parts than any manifest has, if there is one: tomli takes their square."""
    start = dots = 0
    for lexeme in lexemes(text):
        if not lexeme.is_bare:
            if text[lexeme.span.start] not in "\"'":  # which may be a part
                start, dots = lexeme.span.end, 0
            continue
        for piece in _PIECE.finditer(text, *lexeme.span):
            if piece[1]:
                start, dots = piece.start(2), 0
            dots += piece[2].count(".")
            if dots > _DEEP:
                start += len(text[start:]) - len(text[start:].lstrip(_BLANK))
                fault = "a key of so many parts can't be read"
                return SyntaxFault(Span(start, start + 1), fault)
    return None


_PIECE = re.compile("([,=]?)([^,=]*)")


def _explained(  # noqa: C901, PLR0911, PLR0912 - a case for each of the parser's errors
    text: str, said: str, offset: int
) -> SyntaxFault:
    is_at_end = not text[offset:].strip(_BLANK)
    at = len(text.rstrip(_BLANK)) if is_at_end else offset  # not on an empty line far below
    char = text[at : at + 1].strip(_BLANK)
    here = Span(at, at + 1)
    match said.split()[:2]:
        case ["Expected", "newline"]:
            return _after_value(text, at)
        case ["Invalid", "value"]:
            return _no_value(text, at)
        case ["Cannot" | "Duplicate", _]:
            return _twice(text, at)
        case ["Expected", "'='"] if char == ":":
            return SyntaxFault(here, "between a key and its value there is a `=`, not a `:`")
        case ["Expected", "'='"] | ["Invalid", "statement"] if "=" not in text[_line(text, at)]:
            message = "this is neither a key with its value nor a header"
            return SyntaxFault(_span(_line(text, at)), message, _STATEMENT)
        case ["Invalid", "statement" | "initial"] | ["Expected", "'='" | "']'" | "']]'"] if (
            char not in ("", "=")
        ):
            char = " " if said[0] == "E" and text[at - 1] in " \t" else char
            return SyntaxFault(here, f"a name has no {_shown(char)} in it, unless it is in quotes")
        case ["Invalid", "statement" | "initial"] | ["Expected", "'='"]:
            return SyntaxFault(here, "a name is missing here")
        case ["Expected", "']'" | "']]'" as closing]:
            message = f"this header isn't closed: `{closing[1:-1]}` is missing"
            return SyntaxFault(_span(_line(text, at)), message)
        case ["Illegal" | "Found", _] if "\\n" in said:
            hint = "put a quote at its end; one of several lines has three at both ends"
            return SyntaxFault(here, "this string isn't closed", hint)
        case ["Illegal" | "Found", _]:
            hint = "remove it; in a string in double quotes, write it as an escape"
            return SyntaxFault(
                here, f"there is {_shown(text[at])} here, which nobody can see", hint
            )
        case ["Unterminated", "string"] | ["Expected", _]:
            return _unclosed(text, at, "string", "a quote is")
        case ["Unclosed", "array"]:
            return _unclosed(text, at, "array", "`,` or `]` is")
        case ["Unclosed", "inline"]:
            return _unclosed(text, at, "inline table", "`,` or `}` is")
        case ["Unescaped" | "Escaped", _] | ["Invalid", "hex"]:
            message = "a `\\` begins an escape, and there is none such"
            return SyntaxFault(here, message, "double it, or have single quotes round the string")
        case ["Invalid", "date"]:
            return SyntaxFault(_token(text, at), "there is no such date or time")
    return SyntaxFault(here, f"{said[:1].lower()}{said[1:]}")


def _after_value(text: str, at: int) -> SyntaxFault:
    token = _token(text, at)
    if text[at] == ",":
        return SyntaxFault(Span(at, at + 1), "a key's line ends without a comma")
    if token.start < at:  # what began as a value goes on as something else: truer, 1000:1000
        return _unquoted(text, token)
    message = "after a value there is nothing but the end of its line, or a comment"
    return SyntaxFault(token, message)


def _no_value(text: str, at: int) -> SyntaxFault:
    token = _token(text, at)
    if not text[at:].strip(_BLANK) and text[at - 1 : at] != "=":
        return _begins(text, at, "array", "`]` is")
    if token.start != at or text[at : at + 1].strip(_BLANK) in ("", *",=#]}"):
        return SyntaxFault(Span(at, at + 1), "a value is missing here")
    if text[token.end :].lstrip(" \t").startswith("="):  # the next key, in an array
        return _begins(text, at, "array", "`,` or `]` is")
    return _unquoted(text, token)


def _unquoted(text: str, token: Span) -> SyntaxFault:
    word = text[slice(*token)]
    if word.lower() in _BOOLEANS:
        return SyntaxFault(token, f"a boolean is `true` or `false`, not {_shown(word)}")
    if '"' in word or "'" in word:
        return SyntaxFault(token, f"{_shown(word)} is no value")
    hint = (
        f'if it is a string, write "{word}"'
        if len(word) <= _MOST_SHOWN
        else "a string stands in quotes"
    )
    return SyntaxFault(token, f"{_shown(word)} is no value", hint)


def _unclosed(text: str, at: int, what: str, missing: str) -> SyntaxFault:
    if at < len(text.rstrip(_BLANK)):
        return SyntaxFault(_token(text, at), f"{missing} missing before this, in the {what}")
    return _begins(text, at, what, missing)


def _begins(text: str, at: int, what: str, missing: str) -> SyntaxFault:
    message = f"the {what} that begins here isn't closed: {missing} missing at its end"
    return SyntaxFault(_span(_line(text, statement_start(text, at))), message)


def _twice(text: str, at: int) -> SyntaxFault:
    """A name that was given before, with the place where that was."""
    start = statement_start(text, at)
    before, after = locate(text[:start]), locate(text[:at])
    added = after.named_from(start)
    is_header = text[start:at].lstrip(_BLANK).startswith("[")
    above = 0 if is_header else len(before.last_header())  # that is no obstacle to its own keys
    for path in added:
        for end in range(len(path), above, -1):
            first = before.get(path[:end])
            if first and (end == len(path) or first.key != first.value):
                line, _ = line_and_column(text, first.key.start)
                message, hint = f"`{dotted(path)}` is given twice", f"first in line {line}"
                if end < len(path):
                    message = f"`{dotted(path)}` can't be given here"
                    hint = f"`{dotted(path[:end])}` has its value in line {line}: add it there"
                return SyntaxFault(after[path].key, message, hint)
    return SyntaxFault(after[added[-1]].key, f"`{dotted(added[-1])}` is given twice")


def _token(text: str, at: int) -> Span:
    """The word that this offset is in, or one character."""
    line = _line(text, at)
    for each in _TOKEN.finditer(text, line.start, line.stop):
        if each.start() <= at < each.end():
            return Span(*each.span())
    return Span(at, at + 1)


def _line(text: str, at: int) -> slice:
    """The line without what is blank around it."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)]
    return slice(start + len(line) - len(line.lstrip()), start + len(line.rstrip()))


def _span(line: slice) -> Span:
    return Span(line.start, line.stop)


def _shown(piece: str) -> str:
    if len(piece) == 1 and not piece.isprintable():
        return f"U+{ord(piece):04X}"
    cut = piece if len(piece) <= _MOST_SHOWN else f"{piece[: _MOST_SHOWN - 1]}…"
    return "space" if piece == " " else f"`{cut}`"
