"""Addresses of nodes: what of them may be written down, and where the rest comes from.

An account at a provider is named in the address itself: as user and password, as a part of the path, as a parameter. So
settings hold scheme, host and port at most; an address with more stands in an environment variable, and `env:NAME` in its place.
"""

import base64
import re
from urllib.parse import quote, quote_plus, unquote, urlsplit

ENVIRONMENT = "env:"
_SHORTEST = 4  # letters; what is shorter cannot be told from other words, and is no key


def refusal(url: str) -> str:
    """Why an address may not stand in settings, without the address itself; "" if it may."""
    if url.startswith(ENVIRONMENT):
        wrong = not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", url.removeprefix(ENVIRONMENT))
        return "is no name of an environment variable after env:" if wrong else ""
    if not origin(url):
        return "is not an http or https address with a host"
    parts = urlsplit(url.strip())
    if "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        return (
            "has more than scheme, host and port; what follows them may be a key, and would stay in config.yaml, in the journal "
            "and in MLflow: put the whole address into an environment variable and write ledger.url: env:NAME"
        )
    return ""


def origin(url: str) -> str:
    """Scheme, host and port, fit for messages; "" where it is no address of a node."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def hidden(text: str, url: str) -> str:
    """A text of the node's, in one line of printable signs, without what the address has beyond host and port."""
    parts = urlsplit(url)
    values = [value for pair in parts.query.split("&") for value in pair.split("=")[1:]]
    secrets = {parts.path, parts.query, parts.username, parts.password, *parts.path.split("/"), *values}
    plain = {unquote(secret) for secret in secrets if secret}
    known = {form for secret in plain for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret))}
    known |= {secret for secret in secrets if secret}
    if parts.username is not None:  # as the header has them
        both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        known.add(base64.b64encode(both.encode()).decode())
    known = {form for form in known if len(form) >= _SHORTEST}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, "...")
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))[:300]
