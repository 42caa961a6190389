"""A real S3-protocol server (moto's) that fails on demand: python faulty_s3.py PORT. POST /_faults says how."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class Faulty:
    """Passes requests on, but for the next few of a method, which fail as they were told to."""

    def __init__(self, application) -> None:
        self.application = application
        self.faults: list[dict] = []
        self.seen = 0
        self.asked: Counter[str] = Counter()

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/_faults":
            if method == "POST":
                self.faults = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                self.seen = 0
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps({"seen": self.seen, "left": self.faults, "asked": self.asked}).encode()]
        self.asked[f"{method} {path}"] += 1
        for fault in self.faults:
            if fault["method"] == method and fault["in"] in path and fault["times"] > 0:
                fault["times"] -= 1
                self.seen += 1
                return self.fail(fault["kind"], fault["seconds"], environ, start_response)
        return self.application(environ, start_response)

    def fail(self, kind: str, seconds: float, environ, start_response):
        if kind == "hang":
            time.sleep(seconds)
        if kind in ("500", "hang"):
            start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"]
        if kind == "403":
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        taken: list = []
        body = b"".join(self.application(environ, lambda status, headers, *_: taken.append((status, headers))))
        status, headers = taken[0]
        if kind == "truncated":  # by something on the way that makes a whole answer of it
            body = body[: len(body) // 2]
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        if kind == "broken":  # the connection ends early
            body = body[: len(body) // 2]
        start_response(status, headers)
        return [body]


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), Faulty(DomainDispatcherApplication(create_backend_app)), threaded=True)
