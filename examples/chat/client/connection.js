// One connection to a poll URI of pbal, over the best transport that works. pbal.js uses it; a page uses pbal.js.
//
//   probe -> open -> lost -> wait -> open -> ...        superseded, refused, removed: wait much longer, or for resume()
//
// The probe is a poll that does not wait. It brings what is kept and a position to begin from, and it has a status, which a WebSocket
// that fails does not tell. It is made at the start, and after a transport that did not open. A transport that does not open right
// after a good probe does not work here (a proxy without WebSockets, one that holds streams back): the next one is taken.
//
// The owner says what to read ({ credentials, transports, confirm }, url(), queues(), position()) and is told: take({ messages,
// gap, position }) with [queue, message] pairs in their order, say(state, detail). A connection's position moves in take() only.

const HANDSHAKE = 8000, SILENCE = 45000, FIRST = 250, MOST = 10000, LONG = 60000; // ms. SILENCE: three heartbeats of pbal
const POLL = 25; // seconds: pbal's default, and less than the minute after which many proxies cut
const CLOSES = { 1008: "refused", 4000: "bad-position", 4009: "superseded", 4010: "removed" };
const GIVEN_UP = ["superseded", "refused", "removed"];
const LAST_EVENTS = ["superseded", "removed", "bad-position"]; // no queue of a stream has such a name

class Ended extends Error { // why a connection ended, and for how long (ms) its server wants us to stay away
  constructor(kind, words = kind, after = 0) { super(words); this.kind = kind; this.after = after; }
}

async function fetched(line, seconds, more) {
  const url = line.url(seconds);
  const answer = await fetch(url, { cache: "no-store", credentials: line.credentials, ...more });
  if (answer.status === 200) return answer;
  const words = (await answer.text()).trim().slice(0, 200) || `the answer was ${answer.status}`;
  const asked = answer.headers.get("Retry-After"), after = asked ? Number(asked) * 1000 || Date.parse(asked) - Date.now() : 0;
  const kinds = { 400: url.searchParams.has("position") ? "bad-position" : "refused", 408: "lost", 409: "superseded", 410: "removed", 429: "lost" };
  throw new Ended(kinds[answer.status] ?? (answer.status < 500 ? "refused" : "lost"), words, Math.max(0, after || 0));
}

async function ask(line, seconds) { // one poll
  const answer = await fetched(line, seconds, { signal: AbortSignal.any([line.signal, AbortSignal.timeout((seconds + 15) * 1000)]) });
  const text = await answer.text();
  try { line.take(JSON.parse(text)); } catch (error) { throw error instanceof SyntaxError ? new Ended("refused", "the answer is not JSON") : error; }
  line.opened();
}

const TRANSPORTS = {
  async poll(line) {
    for (;;) await ask(line, POLL);
  },

  // fetch, not EventSource: that one tells neither a status nor Retry-After nor an id without data, and comes back by itself.
  async sse(line) {
    const silent = new AbortController();
    let timer = setTimeout(() => silent.abort(), HANDSHAKE), rest = "", event = { data: [] }, retry = 0;
    try {
      const answer = await fetched(line, null, { headers: { Accept: "text/event-stream" }, signal: AbortSignal.any([line.signal, silent.signal]) });
      if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Ended("lost", "no stream");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece; !(piece = await reader.read()).done;) {
        clearTimeout(timer);
        timer = setTimeout(() => silent.abort(), SILENCE);
        line.opened(); // now that something came: some proxies hold a stream back
        const lines = (rest + piece.value).split(/\r?\n/), batch = { messages: [], gap: [] }; // all events of this piece
        rest = lines.pop();
        for (const text of lines) {
          const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(text);
          if (field === "data") event.data.push(value);
          else if (field === "event" || field === "id") event[field] = value;
          else if (field === "retry") retry = Number(value) || 0;
          else if (text === "") {
            const { data, event: kind, id } = event;
            event = { data: [] };
            batch.position = id ?? batch.position;
            if (kind === "gap") batch.gap.push(data[0]);
            else if (LAST_EVENTS.includes(kind)) throw (line.take(batch), new Ended(kind));
            else if (data.length) batch.messages.push([kind ?? line.queues[0], data.join("\n")]);
          }
        }
        line.take(batch);
      }
      throw new Ended("lost", "the stream ended", retry);
    } finally {
      clearTimeout(timer);
    }
  },

  websocket(line) {
    return new Promise((_, reject) => {
      const socket = new WebSocket(line.url().href.replace(/^http/, "ws"));
      let confirming, timer = setTimeout(() => end("lost", "the handshake took too long"), HANDSHAKE);
      const end = (...why) => {
        clearTimeout(timer);
        clearTimeout(confirming);
        socket.onclose = socket.onmessage = null;
        socket.close();
        reject(new Ended(...why));
      };
      const heard = () => { // a page does not see pbal's pings. After a silence it asks something: any answer will do
        clearTimeout(timer);
        timer = setTimeout(() => { socket.send('{"id": 0}'); timer = setTimeout(() => end("lost", "silence"), HANDSHAKE); }, SILENCE);
      };
      line.signal.addEventListener("abort", () => end("lost"));
      socket.onopen = () => { heard(); line.opened(); };
      socket.onclose = ({ code, reason }) => end(CLOSES[code] ?? "lost", reason || undefined, code === 1013 ? 1000 : 0);
      socket.onmessage = ({ data }) => {
        heard();
        try { line.take(JSON.parse(data)); } catch (error) { end(error.kind ?? "lost", error.message); }
        if (line.confirm) confirming ??= setTimeout(() => { confirming = null; socket.send(JSON.stringify({ position: line.position() })); }, 1000);
      };
    });
  },
};

export class Connection {
  #owner; #at; #line; #unsure = true; #wake = () => {};

  constructor(owner) {
    this.#owner = owner;
    this.#at = Math.max(0, owner.transports.indexOf(remembered("pbal.transport")));
    addEventListener("online", () => { this.#at = 0; this.#wake(); }); // perhaps another network, with more to offer
  }

  /** Come back now, where it waits; after `removed` only when asked. */
  wake(asked) { this.#wake(asked); }

  /** Read other queues, if they are others. */
  again() {
    const line = this.#line; // a little later: changes come in pairs
    if (line && this.#owner.queues().join() !== line.queues.join()) setTimeout(() => this.#line === line && line.stop.abort(), 20);
  }

  /** Keep a connection open until the signal. */
  async hold(signal) {
    this.#owner.say("connecting");
    for (let failures = 0; !signal.aborted;) {
      const owner = this.#owner, transport = owner.transports[this.#at], stop = new AbortController();
      const line = this.#line = {
        queues: owner.queues(), position: owner.position, confirm: owner.confirm, credentials: owner.credentials,
        stop, signal: AbortSignal.any([signal, stop.signal]), probed: false, worked: false,
        url: (seconds) => {
          const url = owner.url();
          for (const queue of line.queues) url.searchParams.append("q", queue);
          if (owner.position()) url.searchParams.set("position", owner.position());
          if (seconds != null) url.searchParams.set("timeout", seconds);
          return url;
        },
        take: ({ queues = {}, gap = [], position, superseded, removed, messages }) => {
          if (line.signal.aborted) return;
          messages ??= Object.entries(queues).flatMap(([queue, list]) => list.map((message) => [queue, message]));
          if (messages.length || gap.length || (position && position !== owner.position())) owner.take({ messages, gap, position });
          if (superseded || removed) throw new Ended(superseded ? "superseded" : "removed");
        },
        opened: () => {
          if (line.worked || !line.probed) return;
          line.worked = true;
          failures = 0;
          remembered("pbal.transport", transport);
          owner.say("open", { transport });
        },
      };
      try {
        if (this.#unsure || transport === "poll" || !owner.position()) await ask(line, 0);
        line.probed = true;
        if (transport === "poll") line.opened();
        await TRANSPORTS[transport](line);
      } catch (error) {
        if (signal.aborted) return;
        if (!line.signal.aborted) await this.#failed(error, line, failures++, signal);
      }
    }
  }

  async #failed({ kind = "lost", message: words, after = 0 }, line, failures, signal) { // what now, and when
    const { say, take, transports } = this.#owner, sure = !this.#unsure;
    this.#unsure = !line.worked;
    if (kind === "bad-position") take({ messages: [], gap: line.queues, position: "" }); // from the beginning, and said
    else if (GIVEN_UP.includes(kind)) { // to come back at once would only make it happen again: somebody looks here, or a minute goes by
      say(kind, { words });
      return this.#pause(kind === "removed" ? Infinity : LONG * (1 + Math.random()), (asked) => asked || kind !== "removed", signal);
    } else if (line.probed && !line.worked && !sure && this.#at + 1 < transports.length) {
      this.#at += 1;
      return;
    }
    const wait = Math.max(after, 50 + Math.random() * Math.min(MOST, FIRST * 2 ** Math.min(failures, 9))); // random: nobody in step
    say("lost", { words, wait });
    return this.#pause(wait, () => !after, signal);
  }

  #pause(ms, may, signal) {
    return new Promise((done) => {
      const timer = ms < Infinity && setTimeout(done, ms);
      this.#wake = (asked) => { if (may(asked)) { clearTimeout(timer); done(); } };
      signal.addEventListener("abort", done, { once: true });
    });
  }
}

/** What sessionStorage has for a key; with a value: put it there. Where it may not be used there is nothing. */
export function remembered(key, value) {
  try { return value === undefined ? sessionStorage.getItem(key) : key && sessionStorage.setItem(key, value); } catch { return null; }
}
