"""What the drivers in Python share: the lines of docs/driver-protocol.md, and the contents that both sides make."""

import re


class Failed(Exception):
    """What the answer says behind "error"."""


def contents(pattern, offset, length):
    first, end = offset // 16, (offset + length + 15) // 16
    text = b"".join(b"%04x%012x" % (pattern, n % 2**48) for n in range(first, end))
    return text[offset % 16:][:length] if pattern else bytes(length)


def escape(text):
    """A word of a line, of a str or bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    return "".join(chr(b) if 32 < b < 127 and b not in b"%=:," else f"%{b:02x}" for b in data)


def unescape(word):
    return re.sub("%([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), word).encode("latin-1")


def with_flags(commands):
    """The greeting's words for {operation: (its numbers, its flags)}."""
    return [name + "".join("+" + flag for flag in flags) for name, (_, flags) in commands.items()]


def arguments(words, count, flags):
    """The numbers of a request, and the flags behind them; None where there is one that is not among these."""
    numbers = [int(w) for w in words[:count] if re.fullmatch("[0-9]+", w)]
    if len(numbers) != count or any(n >= 2**64 for n in numbers):
        raise Failed("EINVAL a number is missing or wrong")
    return (numbers, words[count:]) if set(words[count:]) <= set(flags) else (numbers, None)
