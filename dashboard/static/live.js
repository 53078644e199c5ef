// The only script: parts of a page that are shown anew while a study runs, and boxes that are ticked together.
"use strict";

for (const part of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(part.dataset.live);
  const state = document.querySelector("[data-live-state]");
  const say = (words) => { if (state && state.textContent !== words) state.textContent = words; };
  source.addEventListener("message", (event) => {
    // made by our own templates, which escape whatever they show; the policy of the page runs no script in it
    part.innerHTML = JSON.parse(event.data);
    say("live");
  });
  source.addEventListener("ended", () => { say("ended"); source.close(); });
  source.addEventListener("error", () => say("connection lost, trying again"));
}

for (const box of document.querySelectorAll("[data-all]")) {
  box.hidden = false;
  box.addEventListener("change", () => {
    for (const one of document.querySelectorAll(`input[name="${box.dataset.all}"]`)) one.checked = box.checked;
  });
}
