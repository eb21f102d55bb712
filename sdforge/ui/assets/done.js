// When a job is done: a sound, and a notification of the browser's while the page is out of sight.
// Both are settings; the browser asks the user once more for notifications.

import { address } from "./http.js";
import { translated } from "./locale.js";
import { notify } from "./notify.js";

const TONES = [660, 880];
const SECONDS = 0.14;

let facts = { sound: false, volume: 100 };

// What the server's settings say; see PageActions.
export function setDoneFacts(page) {
  facts = { sound: Boolean(page.sound), volume: page.volume ?? 100 };
}

export function tellDone(job) {
  if (facts.sound && job.images.length) playTones(facts.volume / 100);
  if (document.hidden && window.Notification?.permission === "granted") show(job);
}

function show(job) {
  const first = job.images[0];
  const done = job.images.length === 1 ? "1 picture is done." : `${job.images.length} pictures are done.`;
  const words = { done, failed: job.error?.message || "The job failed." };
  const text = words[job.status] || "The job has ended.";
  // It stands outside the page, where locale.js does not look.
  const message = new Notification("sdforge", { body: translated(text) ?? text, icon: first && address(first.url), tag: "sdforge" });
  message.onclick = () => {
    window.focus();
    message.close();
  };
}

// Two short tones, made here so that no file has to be loaded.
export function playTones(volume) {
  const context = new AudioContext();
  TONES.forEach((pitch, index) => {
    const [tone, gain] = [context.createOscillator(), context.createGain()];
    const start = context.currentTime + index * SECONDS;
    tone.frequency.value = pitch;
    gain.gain.setValueAtTime(0.25 * volume, start);
    gain.gain.exponentialRampToValueAtTime(0.001, start + SECONDS);
    tone.connect(gain).connect(context.destination);
    tone.start(start);
    tone.stop(start + SECONDS);
  });
  setTimeout(() => context.close(), 1000);
}

export async function requestNotifications() {
  if (!window.Notification) notify("This browser has no notifications.");
  else if ((await Notification.requestPermission()) === "granted") notify("The browser will tell you when a job is done while this page is out of sight.");
  else notify("The browser does not allow notifications of this page.");
}
