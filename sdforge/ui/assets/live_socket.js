// The live protocol of docs/live.md: one WebSocket that comes back by itself.
//
// The server draws the next frame when the last one was shown, and of several wishes the newest; so
// every change is sent at once, and nothing is held back here.

import { address } from "./http.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
const NOT_CONNECTED = "Not connected to the server.";

export class LiveSocket {
  // `on` has a function for each kind of message, and open() and close(reason).
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.isWanted = false;
    this.wait = FIRST_WAIT_MS;
    // Rises over reconnections too, so that a frame is never taken for an older wish's.
    this.number = 0;
  }

  open() {
    this.isWanted = true;
    if (!this.socket) this.connect();
  }

  close() {
    this.isWanted = false;
    clearTimeout(this.timer);
    this.socket?.close();
    this.socket = null;
  }

  connect() {
    const url = new URL(address("api/v1/live"));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.wait = FIRST_WAIT_MS;
      this.on.open();
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.take(JSON.parse(data)) : this.takeFrame(data));
    socket.onclose = ({ reason }) => {
      if (this.socket === socket) this.lost(reason);
    };
  }

  lost(reason) {
    this.socket = null;
    if (!this.isWanted) return;
    this.on.close(reason || "Reconnecting…");
    this.timer = setTimeout(() => this.isWanted && this.connect(), this.wait);
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
  }

  take(message) {
    this.on[message.type]?.(message);
  }

  takeFrame(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const url = URL.createObjectURL(new Blob([new Uint8Array(data, 4 + length)], { type: header.media_type }));
    this.on.frame(header, url);
    this.send({ type: "shown", number: header.number });
  }

  wish(values) {
    this.number += 1;
    this.send({ type: "draw", number: this.number, ...values });
  }

  // Null takes the picture away.
  picture(blob) {
    if (blob) this.isOpen() && this.socket.send(blob);
    else this.send({ type: "clear" });
  }

  keep(number) {
    if (!this.send({ type: "keep", number })) this.on.close(NOT_CONNECTED);
  }

  isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(message) {
    if (!this.isOpen()) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
