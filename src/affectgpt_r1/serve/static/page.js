// The page's behaviour: choose, drop or record a clip, send it, show the answer that comes as HTML.
"use strict";

const part = (id) => document.getElementById(id);
const form = part("ask"), input = part("file"), preview = part("preview"), said = part("said");
const LONGEST_MS = 15000;
let clip = null, recorder = null;

function tell(text, fault = false) {
  said.setAttribute("role", fault ? "alert" : "status");
  said.textContent = text;
}

function show(file) {
  clip = file;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.srcObject = null;
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file);
  tell(file ? `${file.name}: ready to send` : "");
}

async function record() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
  } catch (error) {
    return tell(`no camera and microphone can be had (${error.message})`, true);
  }
  const kind = ["video/webm", "video/mp4"].find((it) => MediaRecorder.isTypeSupported(it));
  const pieces = [];
  recorder = new MediaRecorder(stream, { mimeType: kind });
  recorder.ondataavailable = (event) => pieces.push(event.data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    preview.muted = false;
    part("record").setAttribute("aria-pressed", "false");
    part("record").textContent = "Record with the camera";
    input.value = "";
    show(new File(pieces, `recording.${kind.split("/")[1]}`, { type: kind }));
  };
  preview.hidden = false;
  preview.muted = true;
  preview.srcObject = stream;
  preview.play();
  recorder.start();
  setTimeout(() => recorder && recorder.stop(), LONGEST_MS);
  part("record").setAttribute("aria-pressed", "true");
  part("record").textContent = "Stop recording";
  tell(`recording, for ${LONGEST_MS / 1000} seconds at most`);
}

async function send(event) {
  event.preventDefault();
  if (!clip) return tell("choose, drop or record a clip first", true);
  const body = new FormData(form), token = part("token");
  body.set("file", clip, clip.name);
  part("send").disabled = true;
  part("answer").replaceChildren();
  const began = Date.now();
  const clock = setInterval(() => tell(`reading and asking, ${Math.round((Date.now() - began) / 1000)} s`), 1000);
  tell("reading and asking");
  try {
    const headers = { Accept: "text/html" };
    if (token) headers.Authorization = `Bearer ${token.value}`;
    const reply = await fetch("/v1/predict", { method: "POST", body, headers });
    clearInterval(clock);
    if (!reply.ok) {
      const { detail } = await reply.json().catch(() => ({ detail: reply.statusText }));
      return tell(typeof detail === "string" ? detail : detail.map((it) => it.msg).join("; "), true);
    }
    part("answer").innerHTML = await reply.text();
    tell("here is the answer");
    part("answer").focus();
  } catch (error) {
    tell(`the server cannot be reached (${error.message})`, true);
  } finally {
    clearInterval(clock);
    part("send").disabled = false;
  }
}

form.addEventListener("submit", send);
input.addEventListener("change", () => show(input.files[0] || null));
part("record").addEventListener("click", () => (recorder ? recorder.stop() : record()));
for (const name of ["dragover", "dragleave", "drop"]) {
  part("drop").addEventListener(name, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
}
