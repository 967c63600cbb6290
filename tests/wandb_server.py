"""A W&B server on loopback, as much of one as the real client needs; what arrives is kept to be looked at."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WandbServer:
    """Serves until closed; a context manager.

    Args:
        refuse: Status codes to answer the first requests of a file stream with, before it is served.
    """

    def __init__(self, refuse=()):
        self.refuse, self.lock = list(refuse), threading.Lock()
        self.runs: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.views: dict[str, dict] = {}
        self.unknown: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"world": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def run(self, name):
        """What is known of a run: its bucket, history lines, summary and whether it has ended."""
        with self.lock:
            return self.runs.setdefault(name, {"history": [], "summary": {}, "exit": None, "created": 0})

    def answer(self, query, variables):
        """The data of a GraphQL answer."""
        variables = {**variables, **(variables.get("input") or {})}
        for name, how in _ANSWERS:
            if re.search(rf"\b{name}\b", query):
                return how(self, variables)
        self.unknown.append(query.split("{")[0].strip())
        return {}


def _viewer(world, _):
    return {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}},
            "serverInfo": {"features": []}}  # fmt: skip


def _upsert(world, said):
    run = world.run(said["name"])
    told = {key: said.get(key) for key in ("config", "groupName", "tags", "displayName", "entity", "project")}
    run |= {key: value for key, value in told.items() if value is not None}
    run["created"] += 1
    return {"upsertBucket": {"bucket": _bucket(said["name"], run), "inserted": run["created"] == 1}}


def _bucket(name, run):
    project = {"name": run.get("project") or "p", "entity": {"name": run.get("entity") or "team"}}
    return {"id": name, "name": name, "displayName": name, "description": None, "config": run.get("config"),
            "sweepName": None, "project": project, "historyLineCount": len(run["history"])}  # fmt: skip


def _resume(world, said):
    if said["name"] not in world.runs:
        return {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": "team"}, "bucket": None}}
    run = world.run(said["name"])
    bucket = _bucket(said["name"], run) | {
        "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
        "summaryMetrics": json.dumps(run["summary"]),
        "tags": run.get("tags") or [],
        "wandbConfig": '{"t": {}}',  # without it the client takes the run for one that never began
        "eventsTail": "[]",
        "eventsLineCount": 0,
        "logLineCount": 0,
    }
    return {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": "team"}, "bucket": bucket}}


def _files(world, said):
    names = said.get("files") or []
    urls = [{"name": n, "uploadUrl": f"{world.url}/put/{said.get('run') or said.get('runName')}/{n}"} for n in names]
    return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": urls}}


def _artifact(world, said):
    return {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s",
            "latestArtifact": None}}}}  # fmt: skip


def _manifest(world, said):
    file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": f"{world.url}/put/manifest/m",
            "uploadHeaders": [], "artifact": {"id": "a"}}  # fmt: skip
    return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}


def _artifact_files(world, said):
    nodes = [
        {"node": {"id": "f", "name": s["name"], "displayName": s["name"], "uploadUrl": f"{world.url}/put/table/{i}",
                  "uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": None, "artifact": {"id": "a"}}}
        for i, s in enumerate(said.get("artifactFiles") or said.get("storageLayout") or [])
    ]  # fmt: skip
    return {"createArtifactFiles": {"files": {"edges": nodes}}}


def _view(world, said):
    """By its id, or else by its name, as W&B does it."""
    with world.lock:
        ids = (
            [said.get("id")]
            if said.get("id")
            else [i for i, view in world.views.items() if view["name"] == said["name"]]
        )
        key = ids[0] if ids else f"view{len(world.views)}"
        world.views[key] = {name: said.get(name) for name in ("name", "displayName", "type", "spec", "description")}
        project = {"id": "p", "name": said["projectName"], "entityName": said["entityName"]}
        view = {"id": key, **world.views[key], "project": project, "updatedAt": "2026-01-01T00:00:00"}
    return {"upsertView": {"view": view, "inserted": not ids}}


def _projects(world, said):
    node = {
        "id": "p",
        "name": "pruning",
        "entityName": "team",
        "createdAt": "2026-01-01T00:00:00",
        "isBenchmark": False,
        "user": None,
    }
    return {
        "models": {"edges": [{"node": node, "cursor": "c"}], "pageInfo": {"endCursor": None, "hasNextPage": False}}
    }


_ANSWERS = [
    ("upsertView", _view),
    ("ProjectInternalId", lambda *_: {"project": {"internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}),
    ("GetProjects", _projects),
    ("Viewer", _viewer),
    ("ServerFeaturesQuery", lambda *_: {"serverInfo": {"features": []}}),
    ("OrganizationCoreWeaveOrganizationID", lambda *_: {"entity": {"organization": None}}),
    ("UpsertBucket", _upsert),
    ("RunResumeStatus", _resume),
    ("CreateRunFiles", _files),
    ("CreateArtifact", _artifact),
    ("ArtifactType", lambda *_: {"project": {"artifact": {"artifactType": {"name": "run_table"}}}}),
    ("CreateArtifactManifest", _manifest),
    ("CreateArtifactFiles", _artifact_files),
    ("CommitArtifact", lambda *_: {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}),
]


class _Handler(BaseHTTPRequestHandler):
    world: WandbServer

    def log_message(self, *_):
        """Nothing: a test prints what it wants to."""

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/graphql"):
            body = json.loads(raw)
            self._reply(200, {"data": self.world.answer(body["query"], body.get("variables") or {})})
        elif "file_stream" in self.path:
            self._stream(self.path.split("/")[-2], json.loads(raw))
        else:
            self._reply(200, {})  # telemetry

    def do_PUT(self):
        self.world.files[self.path] = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._reply(200, {})

    def _stream(self, name, body):
        with self.world.lock:
            refused = self.world.refuse.pop(0) if self.world.refuse else None
        if refused:
            self._reply(refused, {"error": "not now"})
            return
        run = self.world.run(name)
        for file, said in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in said["content"]]
            if file == "wandb-history.jsonl":
                run["history"][said["offset"] :] = lines
            elif file == "wandb-summary.json":
                run["summary"] = lines[-1]
        if body.get("complete"):
            run["exit"] = body.get("exitcode")
        self._reply(200, {"exitcode": None, "limits": {}})

    def _reply(self, status, data):
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
