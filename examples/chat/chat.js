// A chat without a backend. Each window has a queue of its own and polls it together with the queue "lobby":
//
//   lobby     greetings. Every window that is polling at that moment sees them (poll_duplicate = all).
//   own queue messages. Who speaks publishes to the queue of every window it knows, so a window whose connection was lost
//             finds on its return everything that was said (for poll_ttl, five minutes).
//
// Windows come to know each other by greetings, answers to them, and by the list of known queues in each message.
"use strict";

const REMEMBERED = 300000; // ms; poll_ttl: a queue that nobody collects for so long is gone
const log = document.getElementById("log");
const state = document.getElementById("state");
const nameField = document.getElementById("name");
const textField = document.getElementById("text");

const own = sessionStorage.queue || (sessionStorage.queue = "w-" + crypto.getRandomValues(new Uint32Array(2)).join("-"));
const known = new Map(Object.entries(JSON.parse(sessionStorage.known || "{}"))); // queue -> last heard of, ms
const seen = new Set();
nameField.value = sessionStorage.name || "guest" + Math.floor(Math.random() * 900 + 100);
nameField.addEventListener("change", () => { sessionStorage.name = nameField.value; });

function status(text, bad = false) {
  state.textContent = text;
  state.className = bad ? "bad" : "";
}

function connected() {
  return known.size ? "connected, " + (known.size + 1) + " windows" : "connected, nobody else is here";
}

function heard(queue) {
  if (!queue || queue === own) return;
  known.set(queue, Date.now());
  for (const [name, when] of known) if (Date.now() - when > REMEMBERED) known.delete(name);
  sessionStorage.known = JSON.stringify(Object.fromEntries(known));
}

async function publish(queue, message) {
  const answer = await fetch("/publish/" + queue, { method: "POST", body: JSON.stringify(message) });
  if (!answer.ok) throw new Error("publishing was answered " + answer.status);
}

function envelope(kind, more = {}) {
  return { kind, id: crypto.getRandomValues(new Uint32Array(4)).join("-"), from: nameField.value, queue: own, known: [...known.keys()], ...more };
}

function show(message, mine) {
  const line = document.createElement("li");
  const who = document.createElement("b");
  const when = document.createElement("time");
  line.className = mine ? "mine" : "";
  who.textContent = message.from;
  when.textContent = new Date(message.at || Date.now()).toLocaleTimeString();
  line.append(when, who, message.text);
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(line);
  if (atEnd || mine) log.scrollTop = log.scrollHeight;
}

function received(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    message = { kind: "say", from: "somebody", text }; // published by hand: curl -d hello
  }
  if (typeof message !== "object" || message === null || message.kind === undefined) message = { kind: "say", from: "somebody", text };
  if (message.id && seen.has(message.id)) return;
  if (message.id) seen.add(message.id);
  if (message.queue === own) return;
  const stranger = message.queue && !known.has(message.queue);
  heard(message.queue);
  for (const queue of message.known || []) if (queue !== own && !known.has(queue)) heard(queue);
  if (message.kind === "hello" && stranger) publish(message.queue, envelope("here")).catch(() => status("cannot send", true));
  if (message.kind === "say") show(message, false);
  status(connected());
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function poll() {
  for (let wait = 250; ;) {
    try {
      const answer = await fetch("/poll/" + own + "?q=" + own + "&q=lobby", { cache: "no-store" });
      if (!answer.ok) throw new Error("polling was answered " + answer.status);
      const queues = (await answer.json()).queues;
      for (const messages of Object.values(queues)) for (const text of messages) received(text);
      if (wait > 250) greet();
      wait = 250;
      status(connected());
    } catch (error) {
      status("connection lost, trying again", true);
      await pause(wait);
      wait = Math.min(wait * 2, 5000);
    }
  }
}

function greet() {
  publish("lobby", envelope("hello")).then(() => status(connected()), () => {});
}

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = envelope("say", { text: textField.value, at: Date.now() });
  try {
    await Promise.all([...known.keys()].map((queue) => publish(queue, message)));
    seen.add(message.id);
    show(message, true);
    textField.value = "";
  } catch (error) {
    status("not sent: " + error.message, true);
  }
});

poll();
greet();
setTimeout(greet, 1000);
setTimeout(greet, 3000);
setInterval(greet, 20000);
