// What is pasted or dropped: "1024x768" fills both sizes, a picture gives its parameters.

import { request } from "./http.js";
import { notify } from "./notify.js";

const SIZE = /^\s*(\d{2,5})\s*[x×*]\s*(\d{2,5})\s*$/;

export function listenToPaste(form) {
  document.addEventListener("paste", (event) => {
    if (!event.target.closest?.("#txt2img_width, #txt2img_height")) return;
    const size = SIZE.exec(event.clipboardData?.getData("text") || "");
    if (!size) return;
    event.preventDefault();
    form.set({ width: Number(size[1]), height: Number(size[2]) });
  });
  document.addEventListener("dragover", (event) => {
    if (event.target.closest?.(".prompt")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const picture = [...(event.dataTransfer?.files || [])].find((file) => file.type.startsWith("image/"));
    if (!picture || !event.target.closest?.(".prompt")) return;
    event.preventDefault();
    readParameters(picture, form);
  });
}

async function readParameters(picture, form) {
  try {
    const answer = await request("sdapi/v1/png-info", { image: await asDataUrl(picture) });
    if (!answer.info) {
      notify(`${picture.name} holds no parameters.`);
      return;
    }
    form.readInfotext(answer.info);
  } catch (error) {
    notify(error.message, "error");
  }
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
