"""A package reviewed in a browser: its page, and a server that writes decisions into the package.

The page `review.html` lies in the package and has the keys of the QGIS plugin. Opened as a file it
keeps decisions in the browser and saves them to a file, which `answers` reads. Served by
`ReviewServer` it has each decision written into `review.gpkg`, as QGIS would, before it says so.
"""

import hashlib
import json
import re
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rs_lowconf.errors import ReviewError
from rs_lowconf.percents import percent
from rs_lowconf.review.answers import SentAnswer
from rs_lowconf.review.fields import LAYER, Label
from rs_lowconf.review.project import TEMPLATES
from rs_lowconf.review.reading import ReviewedPackage, faults_of
from rs_lowconf.review.samples import Generated, ReviewSample, masks_of, suggestion_of
from rs_lowconf.runs import write_text

PAGE = "review.html"
_MOST_BYTES = 100_000
"""Of a decision that is sent."""
_PREVIEW = re.compile(r"(previews|opinions)/[A-Za-z0-9_-]+\.png")


def write_page(
    folder: Path,
    samples: Sequence[ReviewSample],
    files: Sequence[Mapping[str, str]],
    *,
    package_id: str,
    label: Label,
    classes: Sequence[str],
    title: str,
) -> None:
    """Write the page of a package; of a blind one it tells ids, previews and classes alone.

    Args:
        folder: the package.
        samples: in the order to show them in.
        files: the files of each.
        package_id: its id.
        label: whether something is suggested.
        classes: among which reviewers choose.
        title: of the page.
    """
    data = {
        "package_id": package_id,
        # Runs of the same seed name packages alike: a browser must not mix their answers.
        "content": hashlib.sha256(json.dumps(list(files)).encode()).hexdigest()[:16],
        "title": title,
        "classes": list(classes),
        "masks": masks_of(samples[0]) is not None,
        "observed": not isinstance(samples[0], Generated),
        "samples": [
            {
                "id": sample.sample_id,
                "preview": names["preview"],
                **({} if label == "blind" else _opinion(sample)),
                **({"masks": names["opinion"]} if "opinion" in names else {}),
            }
            for sample, names in zip(samples, files, strict=True)
        ],
    }
    # No text may end the script that it stands in.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    page = (TEMPLATES / PAGE).read_text(encoding="utf-8")
    write_text(folder / PAGE, page.replace("@DATA@", text))


def _opinion(sample: ReviewSample) -> dict[str, str]:
    """Return what is suggested for a sample, and what the model says, as the plugin words it."""
    said, suggestion = sample.prediction, suggestion_of(sample)
    told = {} if suggestion is None else {"suggestion": suggestion}
    if said is not None:
        parts = [f"confidence {percent(said.confidence, 0)}"]
        if masks_of(sample) is None:
            parts = [f"{said.class_name}, {parts[0]}", f"then {said.second}"]
        if isinstance(sample, Generated):
            parts.append(f"critic's score {sample.realism:.2f}")
        told["opinion"] = "; ".join(parts)
    return told


class ReviewServer(ThreadingHTTPServer):
    """Serves a package on the loopback address, to those who know the address that it prints."""

    daemon_threads = True

    def __init__(self, package: ReviewedPackage, port: int = 0) -> None:
        """Listen, without answering yet.

        Args:
            package: whose review.gpkg gets the decisions.
            port: to listen on; 0 takes a free one.

        Raises:
            ReviewError: the package has no page, or the port cannot be used.
        """
        if not (package.folder / PAGE).is_file():
            raise ReviewError(
                f"package {package.folder} has no {PAGE}",
                expected="one that this version exported",
                remedy="review it in QGIS",
            )
        self.package = package
        # Others on this machine can reach the port, but do not know this.
        self._secret = secrets.token_urlsafe(16)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ReviewError(
                f"port {port} cannot be used ({error.strerror})", remedy="choose another --port"
            ) from error

    @property
    def base(self) -> str:
        """Return the path below which everything is."""
        return f"/{self._secret}/"

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}{self.base}"

    def answers(self) -> list[dict[str, Any]]:
        """Return the rows of the package."""
        with closing(self._database()) as database:
            return [dict(row) for row in database.execute(f"{self._query} ORDER BY fid")]

    def keep(self, answer: SentAnswer) -> dict[str, Any]:
        """Write a decision durably, and return the row.

        A row that becomes pending again keeps its reviewer, so that an import recognises that the
        decision was withdrawn.

        Raises:
            ReviewError: the form does not allow it.
        """
        package, row = self.package, answer.model_dump()
        masks = bool(package.pixel_classes)
        faults = faults_of(row, package.classes, masks=masks)
        if answer.sample_id not in {one.sample_id for one in package.answers}:
            faults = [f"there is no sample {answer.sample_id}"]
        if faults:
            raise ReviewError(faults[0], expected="what the form allows")
        if masks:
            del row["true_class"]
        name, reviewer = row.pop("sample_id"), row.pop("reviewer")
        if answer.decision is not None:
            row["reviewer"] = reviewer
        row["comment"] = row["comment"] or None
        if "realism" not in answer.model_fields_set:  # by the page of an older package
            del row["realism"]
        with closing(self._database()) as database, database:
            # EXTRA syncs the folder too, so an acknowledged answer survives a power cut.
            database.execute("PRAGMA synchronous = EXTRA")
            changed = ", ".join(f"{column} = ?" for column in row)
            database.execute(
                f'UPDATE "{LAYER}" SET {changed} WHERE sample_id = ?',  # noqa: S608 (ours)
                (*row.values(), name),
            )
            (kept,) = database.execute(f"{self._query} WHERE sample_id = ?", (name,))
        return dict(kept)

    @property
    def _query(self) -> str:
        classes = "NULL AS true_class" if self.package.pixel_classes else "true_class"
        return (
            f"SELECT sample_id, decision, {classes}, coalesce(comment, '') AS comment, "  # noqa: S608 (ours)
            "coalesce(reviewer, '') AS reviewer, coalesce(reviewed_ms, 0) AS reviewed_ms, realism "
            f'FROM "{LAYER}"'
        )

    def _database(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.package.folder / "review.gpkg", timeout=10)
        database.row_factory = sqlite3.Row
        return database


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the page, its previews and its answers, and nothing else."""

    server: ReviewServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the page, a preview or the answers."""
        name = self._name()
        if name is None:
            return
        folder = self.server.package.folder
        if name == "":
            self._send((folder / PAGE).read_bytes(), "text/html; charset=utf-8")
        elif name == "answers":
            self._send_json(self.server.answers())
        elif _PREVIEW.fullmatch(name) and (folder / name).is_file():
            self._send((folder / name).read_bytes(), "image/png")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such file")

    def do_POST(self) -> None:
        """Keep a decision, and say so once it is on the disk."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MOST_BYTES:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a decision is smaller than that")
            return
        content = self.rfile.read(length)
        if self._name() != "answers":
            return
        try:
            row = self.server.keep(SentAnswer.model_validate_json(content))
        except (ReviewError, ValueError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error).splitlines()[0])
        except sqlite3.Error as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"review.gpkg cannot be written ({error})")
        else:
            self._send_json(row)

    def log_message(self, *args: Any) -> None:
        """Say nothing: the library prints nothing."""

    def _name(self) -> str | None:
        """Return the path below the secret one; refuses any other, and requests of other sites."""
        base, host = self.server.base, f"127.0.0.1:{self.server.server_address[1]}"
        origin = self.headers.get("Origin")
        if (
            not self.path.startswith(base)
            or self.headers.get("Host") != host
            or origin not in (None, f"http://{host}")
        ):
            self._refuse(HTTPStatus.FORBIDDEN, "this address is not known")
            return None
        return self.path.removeprefix(base)

    def _send_json(self, values: Any) -> None:
        self._send(json.dumps(values).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(why.encode(), "text/plain; charset=utf-8", status)

    def _send(self, content: bytes, media: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)
