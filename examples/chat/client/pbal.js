// pbal.js reads queues of pbal in a browser. ES modules without dependencies: this file and connection.js beside it.
//
//   import { subscribe, publish } from "./client/pbal.js";
//   const reading = subscribe("/poll", {
//     queues: ["lobby"],                                  // at most 32, those of all windows together
//     onMessage(queue, message) {},                       // a string; {base64} for one that is not UTF-8
//     onGap(queue) {},                                    // messages were missed and are gone: fetch your state anew
//     onState(state, { transport, role, windows, words }) {},  // connecting, open, lost, paused; superseded, refused, removed
//   });
//   reading.change(["lobby", "garden"]);                  // a queue that is new to this window comes from its beginning
//   reading.resume(); reading.close();
//   const receipt = await publish("/publish", "lobby", "hello");
//
// The poll URI takes queues from its query (poll_queue = query:q) and answers JSON (poll_format = json). With poll_keep = ttl each
// message reaches each window once and in order, however often connections break: every answer has a position, and who comes
// back with it gets what came after, or is told of a gap. Further options:
//
//   url         in place of a string a function that gives one: asked whenever a connection is made (a token that is renewed)
//   transports  ["websocket", "sse", "poll"], the best first    position     where to begin; reading.position is where it is
//   share       true: one connection for all windows; a name: for those that say the same; false: one each
//   store       a key of sessionStorage: the position outlives a reload there    hiddenAfter  60000 ms: then a hidden tab rests
//   confirm     true where poll_keep = confirmed: a WebSocket says what has arrived    credentials  as of fetch
//
// One connection for several windows: who holds the Web Lock leads, the next in line follows. The leader reads the
// queues of all, numbers what comes, and sends it to all over a BroadcastChannel. Each window keeps the last entries and the position
// after each, so each can lead next. A window that the leader cannot serve from exactly where it stands reads alone, with its own
// position; so does every window where there are no Web Locks (they need https or localhost).
//
//   {join, queues, fresh, past, position}   a window reads these; `fresh` are new to it, the last entry it has is `past`
//   {to, ...}        the leader's answer: entries it lacks, who else is there; or that it shall read alone
//   {entry}, {state}, {began}, {who}, {wake}, {bye}     what came; how it goes; queues read anew; say what you read; come back; gone

import { Connection, remembered } from "./connection.js";

const ROUND = 30000; // ms. A window that is not heard of for three rounds has gone without a word
const KEPT = 1000, QUEUES = 32; // entries kept for windows that come later; queues of a request, pbal's limit

class Reading {
  #options; #queues; #id = crypto.getRandomValues(new Uint32Array(3)).join("-"); #name; #channel = null;
  #role = "alone"; #state = ["connecting", {}]; #connection; #term = null; #hidden; #closed = new AbortController();
  #seq = null; #base = ""; #ring = []; #partial; #fresh = []; #members = new Map(); #round = 0; #synced = false;

  constructor(url, options) {
    const o = this.#options = { transports: ["websocket", "sse", "poll"], share: true, hiddenAfter: 60000, credentials: "same-origin", ...options };
    const target = () => new URL(typeof url === "function" ? url() : url, location.href), { origin, pathname } = target();
    this.#name = `pbal ${o.share} ${origin}${pathname} ${o.transports}`;
    this.#queues = [...new Set(o.queues)];
    this.position = o.position ?? remembered(o.store) ?? "";
    this.#partial = this.position !== "";
    this.#connection = new Connection({
      url: target, ...o, position: () => this.position, queues: () => (this.#role === "leader" ? this.#union() : this.#queues),
      take: (found) => this.#took(found), say: (...state) => this.#say(...state),
    });
    const signal = this.#closed.signal;
    document.addEventListener("visibilitychange", () => this.#looked(), { signal });
    addEventListener("focus", () => this.resume(false), { signal });
    addEventListener("pagehide", () => this.#leave(), { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && this.#enter(), { signal });
    this.#enter();
  }

  /** Read these queues from now on. */
  change(queues) {
    const before = this.#queues;
    this.#queues = [...new Set(queues)];
    this.#fresh.push(...this.#queues.filter((queue) => !before.includes(queue)));
    if (this.#role === "leader") this.#admit(this.#mine());
    else this.#post(this.#mine());
    this.#connection.again();
  }

  /** Come back now, after superseded, refused or removed. Somebody who looks at the window does so, too, but for removed. */
  resume(asked = true) {
    this.#post({ wake: true, asked });
    this.#connection.wake(asked);
  }

  /** End it. */
  close() {
    this.#closed.abort();
    this.#leave();
  }

  #enter() {
    if (this.#options.share && navigator.locks && window.BroadcastChannel) {
      this.#channel = new BroadcastChannel(this.#name);
      this.#channel.onmessage = ({ data }) => this.#heard(data);
      this.#role = "follower";
      this.#post(this.#mine());
    }
    this.#looked();
  }

  #leave() {
    clearTimeout(this.#hidden);
    this.#post({ bye: this.#id });
    this.#channel?.close();
    this.#channel = null;
    this.#role = "alone";
    this.#sit();
  }

  #looked() { // a tab that nobody looks at gives the connection to one that is looked at; where there is none, it rests
    clearTimeout(this.#hidden);
    if (document.hidden) this.#hidden = setTimeout(() => this.#rest(), this.#options.hiddenAfter);
    else if (!this.#term) this.#stand();
    else this.resume(false);
  }

  #rest() {
    const held = this.#role !== "follower";
    this.#sit();
    if (held) this.#say("paused");
  }

  #stand() { // in line for the connection
    const { signal } = (this.#term = new AbortController());
    if (!this.#channel) this.#connection.hold(signal);
    else navigator.locks.request(this.#name, { signal }, () => this.#lead(signal)).catch(() => {}); // it fails when we leave the line
  }

  #sit() {
    this.#term?.abort();
    this.#term = null;
  }

  async #lead(signal) {
    if (signal.aborted) return;
    if (this.#seq === null) [this.#seq, this.#base] = [0, this.position];
    this.#role = "leader";
    const others = this.#members.size;
    this.#members.set(this.#id, { queues: this.#queues, round: Infinity });
    this.#fresh = [];
    const rounds = setInterval(() => this.#call(), ROUND);
    this.#call();
    if (others) await new Promise((done) => setTimeout(done, 100)); // what they read is to be in our position, too
    await this.#connection.hold(signal);
    clearInterval(rounds);
    if (this.#channel) this.#role = "follower";
  }

  #call() {
    this.#round += 1;
    for (const [id, { round }] of this.#members) if (round < this.#round - 3) this.#members.delete(id);
    this.#post({ who: true });
    this.#connection.again();
  }

  #post(message) { this.#channel?.postMessage(message); }
  #union() { return [...new Set([...this.#members.values()].flatMap(({ queues }) => queues))]; }

  #mine() {
    const past = this.#seq ?? (this.position ? -1 : null); // null: it has nothing yet; -1: it has, but not from us
    return { join: this.#id, queues: this.#queues, fresh: this.#fresh, past, position: this.position };
  }

  #heard(m) {
    const leads = this.#role === "leader";
    if (m.join) this.#admit(m);
    else if (m.bye && this.#members.delete(m.bye) && leads) this.#changed();
    else if (m.wake && leads) this.#connection.wake(m.asked);
    if (leads) return;
    if (m.who) this.#join();
    else if (m.to === this.#id) this.#admitted(m);
    else if (m.state && this.#synced) this.#say(...m.state);
    else if (m.began && this.#synced) this.#began(m.began);
    else if (m.entry && this.#synced && m.entry.seq > this.#seq) {
      if (m.entry.seq === this.#seq + 1) this.#deliver(m.entry);
      else this.#join(); // some passed by, while the tab was frozen
    }
  }

  #join() {
    this.#synced = false; // until the answer
    this.#post(this.#mine());
  }

  #admit({ join, queues, fresh, past, position }) {
    const before = this.#union(), has = (queue) => before.includes(queue);
    this.#members.set(join, { queues, round: join === this.#id ? Infinity : this.#round });
    if (this.#role !== "leader") return;
    const known = queues.filter((queue) => past !== null && !fresh.includes(queue)); // those it has something of
    const served = past === null ? !this.#partial || !queues.some(has) : this.#after(past) === position && known.every(has);
    if (join !== this.#id && (!served || this.#union().length > QUEUES)) {
      this.#members.delete(join);
      this.#post({ to: join, alone: true });
      return;
    }
    this.#began(queues.filter((queue) => !has(queue)));
    const replay = past === null ? [] : fresh.filter(has);
    const entries = past === null ? this.#ring : this.#ring.filter(({ seq }) => seq > past);
    const members = [...this.#members].map(([id, member]) => [id, member.queues]);
    this.#post({ to: join, entries, replay, members, seq: this.#seq, base: this.#base });
    if (join === this.#id) this.#replay(replay);
    this.#changed();
  }

  #admitted({ alone, entries, replay, members, seq, base }) {
    if (alone) {
      this.#leave();
      this.#looked();
      return;
    }
    if (this.#seq === null) this.#base = base;
    this.#members = new Map(members.map(([id, queues]) => [id, { queues, round: 0 }]));
    this.#replay(replay);
    for (const entry of entries) this.#deliver(entry);
    this.#seq = seq;
    this.#synced = true;
  }

  #changed() { // who is there, or what they read
    this.#connection.again();
    this.#say(...this.#state);
  }

  #after(seq) { // the position after an entry; undefined if that is not known any more
    if (seq === this.#seq) return this.position;
    return seq === this.#seq - this.#ring.length ? this.#base : this.#ring.find((entry) => entry.seq === seq)?.position;
  }

  #began(queues) { // they come from their beginning now: what the ring has of an earlier time would come twice
    if (!queues.length) return;
    for (const entry of this.#ring) entry.messages = entry.messages.filter(([queue]) => !queues.includes(queue));
    if (this.#role === "leader") this.#post({ began: queues });
  }

  #replay(queues) { // new to this window, while others read them already
    this.#fresh = [];
    for (const { messages } of this.#ring) for (const [queue, message] of messages) if (queues.includes(queue)) this.#tell("onMessage", queue, message);
  }

  #took({ messages, gap, position = this.position }) {
    const entry = { seq: this.#seq + 1, messages, gap, position };
    if (this.#role === "leader") this.#post({ entry });
    this.#deliver(entry);
  }

  #deliver(entry) {
    const { seq, messages, gap, position } = entry, mine = this.#queues;
    this.#seq = seq;
    if (this.#channel && this.#ring.push(entry) > KEPT) this.#base = this.#ring.shift().position;
    for (const queue of gap) if (mine.includes(queue)) this.#tell("onGap", queue);
    for (const [queue, message] of messages) if (mine.includes(queue)) this.#tell("onMessage", queue, message);
    this.position = position; // last: a page that is closed in between gets the messages again
    if (this.#options.store) remembered(this.#options.store, position);
  }

  #say(state, detail = {}) {
    this.#state = [state, detail];
    if (this.#role === "leader") this.#post({ state: this.#state });
    this.#tell("onState", state, { ...detail, role: this.#role, windows: Math.max(1, this.#members.size) });
  }

  #tell(handler, ...facts) {
    try { this.#options[handler]?.(...facts); } catch (error) { reportError(error); } // a page's fault does not stop the connection
  }
}

/** Read queues, as the top of this file tells. */
export function subscribe(url, options) { return new Reading(url, options); }

/** Publish a message; its receipt. Raises: Error with the words of the refusal. */
export async function publish(url, queue, message) {
  url = new URL(url, location.href);
  url.searchParams.set("q", queue);
  const answer = await fetch(url, { method: "POST", body: message, cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 200) || `publishing was answered ${answer.status}`);
  return answer.json();
}
