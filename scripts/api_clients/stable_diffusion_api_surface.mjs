// Run the public JavaScript client `stable-diffusion-api` over its whole surface against a live
// server: `npm install && node stable_diffusion_api_surface.mjs PORT`. One line per call; exit
// status 1 when any of them failed that is not known to be missing here.
import library from "stable-diffusion-api";
import sharp from "sharp";

const Api = library.default ?? library;
const port = Number(process.argv[2]);
const api = new Api({ host: "127.0.0.1", port, protocol: "http", timeout: 120000 });
const small = { prompt: "a red apple", steps: 2, width: 64, height: 64 };
const picture = () =>
  sharp({ create: { width: 64, height: 64, channels: 3, background: "red" } }).png();
// The first is missing here. The others fail on A1111 too: this client sends `image_list` for
// `imageList`, and looks for a key `name` that no checkpoint of A1111's list has.
const known = ["interrogate", "extraBatch", "setModel"];

const calls = {
  txt2img: () => api.txt2img(small),
  img2img: () => api.img2img({ ...small, init_images: [picture()] }),
  extraSingle: () => api.extraSingle({ image: picture(), upscaler_1: "Lanczos" }),
  extraBatch: () =>
    api.extraBatch({ images: [picture()], name_list: ["a"], upscaler_1: "Lanczos" }),
  pngInfo: () => api.pngInfo(picture()),
  interrogate: () => api.interrogate(picture(), "clip"),
  setOptions: () => api.setOptions({ CLIP_stop_at_last_layers: 1 }),
  setModel: async () => api.setModel((await api.getSdModels())[0].title),
  "ControlNet.getModels": () => api.ControlNet.getModels(),
  "ControlNet.getModules": () => api.ControlNet.getModules(),
  "ControlNet.detect": () =>
    api.ControlNet.detect({ controlnet_module: "canny", controlnet_input_images: [picture()] }),
};
const readers = [
  "getOptions", "getProgress", "getCmdFlags", "getSamplers", "getUpscalers", "getSdModels",
  "getHypernetworks", "getFaceRestorers", "getRealesrganModels", "getPromptStyles",
  "refreshCheckpoints", "getCurrentModel", "waitForReady",
];
for (const name of readers) calls[name] = () => api[name]();

let failed = 0;
for (const [name, call] of Object.entries(calls)) {
  try {
    await call();
    console.log(`ok   ${name}`);
  } catch (error) {
    if (!known.includes(name)) failed += 1;
    const said = error.response ? JSON.stringify(error.response.data) : error.message;
    console.log(`FAIL ${name}: ${said.slice(0, 200)}`);
  }
}
process.exit(failed ? 1 : 0);
