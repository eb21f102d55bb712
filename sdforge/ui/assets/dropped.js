// Pictures that are dragged onto the page: files, or a picture of this page itself (a result, say), of which the browser
// gives the address alone.

export function holdsPicture(transfer) {
  return pictureFiles(transfer).length > 0 || Boolean(pictureAddress(transfer));
}

// Returns the dropped pictures as files. What the browser tells is read at once: it is gone when the drop is over.
export async function droppedPictures(transfer) {
  const files = pictureFiles(transfer);
  const from = files.length ? "" : pictureAddress(transfer);
  if (!from) return files;
  const answer = await fetch(from);
  const blob = await answer.blob();
  if (!answer.ok || !blob.type.startsWith("image/")) throw new Error("What was dropped is no picture.");
  return [new File([blob], decodeURIComponent(new URL(from).pathname.split("/").pop()), { type: blob.type })];
}

function pictureFiles(transfer) {
  return [...(transfer?.files || [])].filter((file) => file.type.startsWith("image/"));
}

// Of pictures that are shown here only: other sites' are not fetched.
function pictureAddress(transfer) {
  if (!/<img\b/i.test(transfer?.getData("text/html") || "")) return "";
  const first = (transfer.getData("text/uri-list") || "").split(/\r?\n/).find((line) => line && !line.startsWith("#"));
  return first && URL.canParse(first) && new URL(first).origin === window.location.origin ? first : "";
}
