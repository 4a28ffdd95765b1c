// A chat without a backend: what is said, who is here and what is parked are all queues of pbal.
//
//   ROOM          what is said in a room, one JSON object a message: {id, from, text, at}. pbal keeps it for a while (poll_keep =
//                 ttl): who comes late reads the last of it, whose connection was lost reads what was missed
//   ROOM.NAME     nobody needs to write there. This window waits on it, and so NAME is present in ROOM (poll_presence).
//                 What is written there is for NAME alone: curl -d hello http://HOST/publish/lobby.ann
//   presence      pbal's own messages about who came and who left
//
// Names and messages are written by strangers: they become text nodes, never markup, and every member of a message is checked.
import { publish, subscribe } from "./client/pbal.js";

const POLL = "/poll", PUBLISH = "/publish", PRESENCE = "presence";
const ROOMS = ["lobby", "garden", "workshop"], MOST_ROOMS = 8, LINES = 500;
const LOOK = 20000; // ms between two looks at who is here, for what no message tells
const SETTLED = 800; // ms after the connection is back in which what comes counts as missed
const NAMES = { websocket: "WebSocket", sse: "event stream", poll: "long poll" };
const $ = (id) => document.getElementById(id);
const now = () => performance.timeOrigin + performance.now(); // ms, with fractions, and one clock for all windows here

// -- names: of rooms, of people, of queues ---------------------------------------------------------------------------

const roomOf = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}_-]/gu, "").slice(0, 24).replace(/\p{Surrogate}/u, "");
const clean = (text) => text.replace(/[\p{Cc}\p{Surrogate}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, " ").replace(/\s+/g, " ").trim();
const cut = (name) => clean(clean(name).slice(0, 18)); // again: half of a letter may be left
const seat = (room, name) => `${room}.${name.replace(/[^\p{L}\p{N}_-]/gu, encodeURIComponent)}`; // a queue has no spaces

function seated(queue) { // the room and the name of a queue
  const dot = queue.indexOf(".");
  if (dot < 1) return [queue, ""];
  try { return [queue.slice(0, dot), clean(decodeURIComponent(queue.slice(dot + 1)))]; } catch { return [queue.slice(0, dot), ""]; }
}

function colour(element, name) {
  let hash = 2166136261; // FNV-1a, then mixed: short names that are alike get hues that are not
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  element.style.setProperty("--hue", 18 * (((hash ^ (hash >>> 13)) >>> 0) % 20)); // twenty that can be told apart
}

function kept(key, value) { // over a reload, where the browser allows it
  try { if (value === undefined) return sessionStorage.getItem(key); sessionStorage.setItem(key, value); } catch { /* then not */ }
  return null;
}

// -- what this window shows ------------------------------------------------------------------------------------------

const rooms = new Map(); // name -> {log, tab, unread, people: queue -> windows, heard: queues told of since the last look, seen, last, away}
let here = "", me = clean(kept("name") ?? "") || `guest ${100 + Math.floor(Math.random() * 900)}`, reading, opened = Infinity, settling = 0;

function element(tag, classes = "", ...inside) {
  const made = document.createElement(tag);
  made.className = classes;
  made.append(...inside);
  return made;
}

function room(name) {
  const log = element("ol"), button = element("button", "", element("span", "name", name)), tab = element("li", "", button);
  log.setAttribute("role", "log");
  log.setAttribute("aria-label", `Messages in ${name}`);
  log.tabIndex = 0;
  log.hidden = true;
  button.type = "button";
  button.addEventListener("click", () => enter(name));
  $("rooms").append(tab);
  $("logs").append(log);
  rooms.set(name, { log, tab, unread: 0, people: new Map(), heard: new Set(), seen: new Set(), last: null, away: false });
}

function enter(name) {
  if (!rooms.has(name)) {
    if (!name || rooms.size >= MOST_ROOMS) return;
    room(name);
  }
  if (here) { rooms.get(here).log.hidden = true; rooms.get(here).tab.removeAttribute("aria-current"); }
  here = name;
  const { log, tab } = rooms.get(name);
  log.hidden = false;
  tab.setAttribute("aria-current", "true");
  history.replaceState(null, "", `#${name}`);
  kept("rooms", JSON.stringify([...rooms.keys()]));
  $("curl").textContent = `curl -d 'hello' ${location.origin}${PUBLISH}/${name}`;
  log.scrollTop = log.scrollHeight;
  read();
  showUnread(rooms.get(name), 0);
  reading?.change(queues());
  showPeople();
  look();
}

function showUnread(where, number) {
  where.unread = number;
  where.tab.querySelector(".unread")?.remove();
  if (number) where.tab.firstChild.append(element("span", "unread", String(Math.min(number, 99))));
}

let missed = 0; // messages since somebody looked at this window
function read() {
  missed = document.hidden ? missed : 0;
  document.title = missed ? `(${missed}) pbal chat` : "pbal chat";
}

function add(where, line) {
  const { log } = where, atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(line);
  while (log.childElementCount > LINES) log.firstChild.remove();
  if (atEnd || line.classList.contains("mine")) log.scrollTop = log.scrollHeight;
}

function divide(where, words, kind = "") {
  add(where, element("li", `divider ${kind}`, element("span", "", words)));
  where.last = null;
}

function linked(text) { // text, with links as links: text nodes and <a>, whatever it holds
  const parts = [];
  let from = 0;
  for (const { 0: found, index } of text.matchAll(/\bhttps?:\/\/[^\s<>"'`]+/gi)) {
    const address = found.replace(/[.,;:!?)\]}]+$/, ""), link = element("a", "", address);
    try { link.href = new URL(address).href; } catch { continue; }
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    parts.push(text.slice(from, index), link);
    from = index + address.length;
  }
  return [...parts, text.slice(from)];
}

function show(where, { from, text, at }, classes = "", mark = "") {
  const when = new Date(at), time = element("time", "", when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  const name = element("b", "", from, ...(mark ? [element("span", "mark", mark)] : [])), last = where.last;
  const more = last && last.from === from && last.mark === mark && at - last.at < 120000;
  const line = element("li", `said ${classes} ${more ? "more" : ""}`, name, time, element("p", "", ...linked(text)));
  time.title = when.toLocaleString();
  colour(line, from);
  add(where, line);
  where.last = { from, at, mark };
  return line;
}

// -- what comes ------------------------------------------------------------------------------------------------------

function message(text) { // {id, from, text, at} of whatever somebody published
  const at = Date.now();
  let said = null;
  if (typeof text === "string") try { said = JSON.parse(text); } catch { /* by hand: curl -d hello */ }
  if (typeof said?.text !== "string") return { id: "", from: "somebody", text: typeof text === "string" ? text.slice(0, 4000) : "(no text)", at, dated: false };
  const dated = Number.isFinite(said.at) && said.at > 0 && said.at < at + 86400000;
  const from = cut(String(said.from ?? "").slice(0, 60)) || "somebody";
  return { id: String(said.id ?? "").slice(0, 60), from, text: said.text.slice(0, 4000), at: dated ? said.at : at, dated };
}

const pending = new Map(); // id -> {line, sent}: mine, not back yet

function onMessage(queue, text) {
  if (queue === PRESENCE) return presence(text);
  const [name] = seated(queue), where = rooms.get(name);
  if (!where) return undefined;
  const said = message(text), mine = pending.get(said.id);
  if (mine) { // it went through pbal and came back, as it came to all others
    pending.delete(said.id);
    mine.line.classList.remove("pending");
    where.seen.add(said.id);
    latency("this window to itself", now() - mine.sent);
    return undefined;
  }
  if (said.id && where.seen.has(said.id)) return undefined;
  if (said.id) where.seen.add(said.id);
  if (where.seen.size > 4 * LINES) where.seen.delete(where.seen.values().next().value);
  const fresh = said.at >= opened; // said while this window was connected, and not read from what is kept
  const late = where.away && !(fresh && said.dated);
  if (late) divide(where, "while the connection was away");
  where.away = false;
  show(where, said, said.from === me ? "mine" : "", queue === name ? "" : "to you alone");
  if (fresh && said.dated) latency(`${said.from} to this window`, now() - said.at);
  if ((fresh || late) && document.hidden) missed += 1;
  if ((fresh || late) && name !== here) showUnread(where, where.unread + 1);
  read();
  return undefined;
}

function latency(words, ms) {
  if (ms >= 0 && ms < 60000) $("latency").textContent = `${ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms, ${words}`; // else: clocks that differ
}

function onGap(queue) {
  const where = rooms.get(queue);
  if (where && where.log.childElementCount) divide(where, "some messages are missing here", "gap");
  if (queue === PRESENCE) look();
}

function onState(state, { transport, role, windows, words }) {
  const lost = state !== "open";
  const text = {
    open: "connected", connecting: "connecting", lost: "connection lost, trying again", paused: "resting, nobody looks",
    superseded: "another window took over", refused: `refused: ${words}`, removed: "the queue was deleted",
  };
  $("state").textContent = text[state];
  $("state").className = state === "open" ? "open" : state === "connecting" || state === "paused" ? "" : "bad";
  clearTimeout(settling);
  if (lost) {
    opened = Infinity;
    $("transport").textContent = text[state];
    if (state !== "connecting") for (const where of rooms.values()) where.away = where.log.childElementCount > 0;
    return;
  }
  const shared = windows < 2 ? "" : role === "leader" ? `, for ${windows} windows` : `, held by another of ${windows} windows`;
  $("transport").textContent = `${NAMES[transport]}${shared}`;
  opened = Math.min(opened, now());
  settling = setTimeout(() => { for (const where of rooms.values()) where.away = false; }, SETTLED);
  look();
}

// -- who is here -----------------------------------------------------------------------------------------------------

function presence(text) {
  let told;
  try { told = JSON.parse(text); } catch { return; }
  if (typeof told?.queue !== "string") return;
  const [name] = seated(told.queue), where = rooms.get(name);
  if (!where) return;
  where.heard.add(told.queue);
  if (told.event === "join") where.people.set(told.queue, Number(told.count) || 1);
  else where.people.delete(told.queue);
  if (name === here) showPeople();
}

async function look() { // ask pbal: for what was before the first message of `presence`, or went with a restart
  const name = here, where = rooms.get(name);
  where.heard.clear();
  try {
    const ask = async (queue) => (await fetch(`${PUBLISH}?q=${encodeURIComponent(queue)}`, { cache: "no-store" })).json();
    const [list, facts] = await Promise.all([ask(`${name}.*`), ask(name)]);
    const told = where.heard; // what was told meanwhile is newer
    for (const queue of where.people.keys()) if (!told.has(queue)) where.people.delete(queue);
    for (const { queue, parked, present } of list.queues) if ((present ?? parked > 0) && !told.has(queue)) where.people.set(queue, parked || 1);
    if (name !== here) return;
    $("parked").textContent = `${facts.parked} ${facts.parked === 1 ? "connection waits" : "connections wait"} for #${name}`;
    showPeople();
  } catch { /* the connection tells that it is lost */ }
}

function showPeople() {
  const seats = [...rooms.get(here).people].map(([queue, windows]) => [seated(queue)[1], windows]).filter(([name]) => name);
  if (!seats.some(([name]) => name === me)) seats.push([me, 1]);
  seats.sort(([a], [b]) => (b === me) - (a === me) || a.localeCompare(b));
  $("number").textContent = String(seats.length);
  $("people").replaceChildren(...seats.map(([name, windows]) => {
    const more = name === me ? ["you"] : [];
    if (windows > 1) more.push(`${windows} windows`);
    const person = element("li", "person", element("bdi", "", name), ...(more.length ? [element("small", "", more.join(", "))] : []));
    colour(person, name);
    return person;
  }));
}

// -- what goes -------------------------------------------------------------------------------------------------------

async function send(where, name, said, line) {
  pending.set(said.id, { line, sent: now() });
  try {
    const receipt = await publish(PUBLISH, name, JSON.stringify({ ...said, at: now() }));
    if (name === here) $("parked").textContent = `${receipt.parked} ${receipt.parked === 1 ? "connection waits" : "connections wait"} for #${name}`;
  } catch (error) {
    if (!pending.has(said.id)) return; // it arrived all the same
    const again = element("button", "", "not sent: send again");
    again.type = "button";
    again.title = error.message;
    again.addEventListener("click", () => { again.remove(); line.classList.replace("failed", "pending"); send(where, name, said, line); });
    line.classList.replace("pending", "failed");
    line.append(again);
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim(), where = rooms.get(here);
  if (!text) return;
  const said = { id: crypto.getRandomValues(new Uint32Array(4)).join("-"), from: me, text, at: now() };
  send(where, here, said, show(where, said, "mine pending"));
  $("text").value = "";
});

$("name").addEventListener("change", () => {
  me = cut($("name").value) || me;
  $("name").value = me;
  colour($("name"), me);
  kept("name", me);
  reading.change(queues());
  showPeople();
});

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(roomOf($("room").value));
  $("room").value = "";
});

// -- begin -----------------------------------------------------------------------------------------------------------

const queues = () => [...rooms.keys(), seat(here, me), PRESENCE];

function remembered() {
  let list = null;
  try { list = JSON.parse(kept("rooms")); } catch { /* then the usual ones */ }
  return [...new Set([...ROOMS, ...(Array.isArray(list) ? list : [])].map((name) => roomOf(String(name))).filter(Boolean))].slice(0, MOST_ROOMS);
}

const asked = new URLSearchParams(location.search).get("transport"), wanted = Object.hasOwn(NAMES, asked ?? "") ? asked : null;
for (const [transport, words] of Object.entries(NAMES)) {
  const link = element("a", "", words);
  link.href = `?transport=${transport}`;
  $("ways").append(...($("ways").childNodes.length ? [" · "] : []), link);
}
$("name").value = me;
kept("name", me);
colour($("name"), me);
$("corner").open = matchMedia("(min-width: 56.01rem)").matches;
remembered().forEach(room);
let start = "";
try { start = roomOf(decodeURIComponent(location.hash.slice(1))); } catch { /* no name of a room */ }
enter(rooms.has(start) || (start && rooms.size < MOST_ROOMS) ? start : ROOMS[0]);
reading = subscribe(POLL, { queues: queues(), onMessage, onGap, onState, hiddenAfter: 600000, ...(wanted ? { transports: [wanted] } : {}) });
document.addEventListener("visibilitychange", read);
addEventListener("hashchange", () => { try { enter(roomOf(decodeURIComponent(location.hash.slice(1)))); } catch { /* no name of a room */ } });
setInterval(() => document.hidden || look(), LOOK);
globalThis.chat = { reading }; // for a look from the browser's console
