// The status page renews itself: every few seconds it fetches its own middle. Hidden, it rests; a pbal that does not answer is said.
"use strict";

const SECONDS = 3;
const main = document.querySelector("main");
const age = document.querySelector("#age");
let last = Date.now();

function tell() {
  const seconds = Math.round((Date.now() - last) / 1000);
  age.textContent = seconds > 2 * SECONDS ? `no answer for ${seconds} s` : "live";
  age.className = seconds > 2 * SECONDS ? "bad" : "good";
}

async function renew() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/status", { cache: "no-store", credentials: "same-origin" });
    if (answer.ok) {
      const text = await answer.text();
      main.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
      last = Date.now();
    }
  } catch {
    // tell() says that it is long ago
  }
  tell();
}

tell();
setInterval(renew, SECONDS * 1000);
document.addEventListener("visibilitychange", renew);
