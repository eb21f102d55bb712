// What is pasted or dropped: "1024x768" fills both sizes, a picture gives its parameters.

import { droppedPictures, holdsPicture } from "./dropped.js";
import { request } from "./http.js";
import { notify } from "./notify.js";
import { asDataUrl } from "./pnginfo.js";

const SIZE = /^\s*(\d{2,5})\s*[x×*]\s*(\d{2,5})\s*$/;

// `shown` returns the tab that is on screen.
// `pngInfo` takes what is dropped on its own area.
export function listenToPaste(shown, pngInfo) {
  document.addEventListener("paste", (event) => {
    const { form, pictures } = shown();
    const file = pictureAmong(event.clipboardData);
    if (file && isVisible("pnginfo_image")) {
      event.preventDefault();
      pngInfo.take(file);
      return;
    }
    if (file && pictures) {
      event.preventDefault();
      pictures.takeFile(event.target, file);
      return;
    }
    if (!event.target.closest?.(".size-group")) return;
    const size = SIZE.exec(event.clipboardData?.getData("text") || "");
    if (!size) return;
    event.preventDefault();
    form.set({ width: Number(size[1]), height: Number(size[2]) });
  });
  document.addEventListener("dragover", (event) => {
    if (event.target.closest?.(".prompt, .drop-area")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!holdsPicture(event.dataTransfer) || !event.target.closest?.(".prompt, .drop-area")) return;
    event.preventDefault();
    const { target } = event;
    droppedPictures(event.dataTransfer)
      .then(([picture]) => {
        if (target.closest("#pnginfo_image")) pngInfo.take(picture);
        else if (target.closest(".prompt")) readParameters(picture, shown().form);
        else shown().pictures.takeFile(target, picture);
      })
      .catch((error) => notify(error.message, "error"));
  });
}

function isVisible(id) {
  return Boolean(document.getElementById(id)?.offsetParent);
}

function pictureAmong(transfer) {
  return [...(transfer?.files || [])].find((file) => file.type.startsWith("image/"));
}

async function readParameters(picture, form) {
  try {
    const answer = await request("sdapi/v1/png-info", { image: await asDataUrl(picture) });
    if (!answer.info) {
      notify(answer.note || `${picture.name} holds no parameters.`);
      return;
    }
    form.readInfotext(answer.info);
  } catch (error) {
    notify(error.message, "error");
  }
}
