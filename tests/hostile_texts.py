"""What the hostile peers of tests/test_hostile.py say, and where they count it."""

import os

PIECES = [b"\x1b[35m\x1b]0;owned\x07", b"\x1b[2J\x1b[999C", b"\x9b31m", b"\0", b"\r\nnot ok 1 - forged\n", b"\nBail out! forged\n", b"1..0 # SKIP\n", b"]]><failure/>", b"<script>document.title='owned'</script>",
          b"</script><img src=x onerror=alert(1)>", b"&amp;&#0;&lt;", b"\xff\xfe\x80", b"\xc0\xaf\xe0\x80\xaf", b"\xed\xa0\x80", "\u202e\u2066\u2028\ufeff\uffff".encode(), b"%s%n%1000000d",
          b"| a | b |\n|---|---|\n", b"```\n# heading\n<details open>", b"[x](javascript:alert(1)) ![x](http://example.invalid/x.png) @team #1", b"::error file=a::forged\n", b"\\\"\\u0000'${IFS}`id`$(id)", b"\x7f\x01\x1b\\", b"\t\v\f\b\b\b", b"x" * 4096,
          "\U0001f4a5\u0301".encode(), b"-->", b"]]>", b"# TODO\n", b"---\n...\n", b"\x1bP$q\x1b\\", b"\x1b[6n", b"\x0e\x0f", b"name,with,commas", b"../../../etc/passwd"]


def counter(path):
    """text(r, most): one more text, by the random numbers of r; the length of the file at path is how many there were."""
    count = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def text(r, most=4096):
        os.write(count, b".")
        return b"".join(r.choice(PIECES) for _ in range(r.randrange(1, 9)))[:r.choice((most, most, 64))]
    return text
