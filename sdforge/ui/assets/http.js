// Requests to our own server, relative to the page, and whether it can be reached.

// Gradio knows below which path the server lies; the origin is the one the browser sees.
const root = new URL(window.gradio_config?.root || "./", document.baseURI);
const base = new URL(root.pathname.replace(/\/*$/, "/"), window.location.origin);

const listeners = new Set();
let reachable = true;

export class Unreachable extends Error {}

export class Refused extends Error {
  // `detail`: FastAPI's list of {loc, msg}, or the sentence again.
  constructor(status, message, detail = null) {
    super(message);
    this.status = status;
    this.detail = detail;
  }
}

export function onReachable(listener) {
  listeners.add(listener);
}

export function isReachable() {
  return reachable;
}

function setReachable(value) {
  if (reachable === value) return;
  reachable = value;
  listeners.forEach((listener) => listener(value));
}

// Returns the address of a path on our server; it may be given below its root or in full.
export function address(path) {
  if (path.startsWith(base.pathname)) return new URL(path, base.origin).href;
  return new URL(path.replace(/^\//, ""), base).href;
}

// Throws Unreachable when no answer comes, Refused for an answer that is an error.
// A Blob is sent as it is, all else as JSON.
export async function request(path, body, { timeout = 10000, method = body === undefined ? "GET" : "POST" } = {}) {
  const isFile = body instanceof Blob;
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeout);
  let response;
  try {
    response = await fetch(address(path), {
      method,
      headers: body === undefined ? {} : { "Content-Type": isFile ? "application/octet-stream" : "application/json" },
      body: body === undefined || isFile ? body : JSON.stringify(body),
      signal: abort.signal,
      cache: "no-store",
    });
  } catch (error) {
    setReachable(false);
    throw new Unreachable(String(error));
  } finally {
    clearTimeout(timer);
  }
  // A proxy answers so while the server behind it restarts.
  if ([502, 503, 504].includes(response.status)) {
    setReachable(false);
    throw new Unreachable(`status ${response.status}`);
  }
  setReachable(true);
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    const detail = answer && (answer.message || answer.detail || answer.errors || answer.error);
    throw new Refused(response.status, typeof detail === "string" && detail ? detail : `The server answered ${response.status}.`, answer?.detail);
  }
  return answer;
}

// Sends a picture to the engine's store; returns its name there, and its size.
export function upload(path, blob) {
  return request(path, blob, { timeout: 120000 });
}
