"""GET /docs: the list of routes as one page that loads nothing but /openapi.json.

FastAPI's own page fetches its script from a CDN; this server must work without a network and tell
nobody that it runs.
"""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2rem; text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; }
summary { cursor: pointer; padding: .4rem .7rem; }
details > div { padding: 0 .9rem .6rem; overflow-x: auto; }
code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { background: var(--soft); border-radius: 6px; padding: .6rem; overflow-x: auto; }
.method { display: inline-block; min-width: 3.4rem; font-weight: 600; }
.note { opacity: .75; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .5rem; text-align: left;
  vertical-align: top; }
"""

_SCRIPT = """
const make = (tag, text, parent) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
};
const resolve = (spec, schema) => {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.slice(2).split("/").reduce((node, key) => node[key], spec);
};
const kindOf = (spec, schema) => {
  const found = resolve(spec, schema);
  if (found.anyOf) return found.anyOf.map(part => kindOf(spec, part)).join(" | ");
  if (found.enum) return found.enum.join(" | ");
  if (found.type === "array") return "list of " + kindOf(spec, found.items);
  return found.type || found.title || "anything";
};
const table = (spec, parent, rows) => {
  const body = make("table", undefined, parent);
  const head = make("tr", undefined, body);
  ["name", "type", "default", "meaning"].forEach(text => make("th", text, head));
  for (const [name, schema] of rows) {
    const row = make("tr", undefined, body);
    make("code", name, make("td", undefined, row));
    const {minimum, maximum} = schema;
    const range = minimum === undefined ? "" :
      maximum === undefined ? `, at least ${minimum}` : `, ${minimum} to ${maximum}`;
    make("td", kindOf(spec, schema) + range, row);
    make("td", schema.default === undefined ? "" : JSON.stringify(schema.default), row);
    make("td", schema.description || "", row);
  }
};
const showSchema = (spec, parent, content) => {
  const media = content && content["application/json"];
  if (!media || !media.schema) return;
  const schema = resolve(spec, media.schema);
  if (schema.properties) table(spec, parent, Object.entries(schema.properties));
  else make("p", kindOf(spec, schema), parent).className = "note";
};
const showRoute = (spec, parent, path, method, route) => {
  const box = make("details", undefined, parent);
  const line = make("summary", undefined, box);
  make("span", method.toUpperCase(), line).className = "method";
  make("code", path, line);
  const inside = make("div", undefined, box);
  make("p", route.description || route.summary || "", inside);
  if (route.parameters) {
    make("h4", "Parameters", inside);
    table(spec, inside, route.parameters.map(row =>
      [row.name, {...row.schema, description: row.description || `in the ${row.in}`}]));
  }
  if (route.requestBody) {
    make("h4", "Body (JSON)", inside);
    showSchema(spec, inside, route.requestBody.content);
  }
  make("h4", "Answers", inside);
  for (const [status, answer] of Object.entries(route.responses)) {
    make("p", `${status}: ${answer.description}`, inside);
    if (status === "200") showSchema(spec, inside, answer.content);
  }
};
const show = spec => {
  const main = document.getElementById("routes");
  main.textContent = "";
  make("p", `${spec.info.title} ${spec.info.version}`, main).className = "note";
  const groups = new Map();
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, route] of Object.entries(methods)) {
      const group = (route.tags || ["other"])[0];
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push([path, method, route]);
    }
  for (const [group, routes] of groups) {
    make("h2", group, main);
    for (const [path, method, route] of routes) showRoute(spec, main, path, method, route);
  }
};
fetch("openapi.json").then(answer => answer.json()).then(show).catch(error => {
  document.getElementById("routes").textContent = `The list could not be read: ${error}`;
});
"""

_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sdforge API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body><h1>sdforge API</h1>
<p>For programs, the same as <a href="openapi.json">openapi.json</a>.</p>
<main id="routes">Reading the list of routes…</main>
<script>{_SCRIPT}</script></body></html>
"""


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def router() -> APIRouter:
    """Return the route."""
    routes = APIRouter()
    policy = (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'self'"
    )

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The routes, for people."""
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": policy})

    return routes
