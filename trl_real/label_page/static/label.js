"use strict";

const LONGEST = 100_000; // characters of a text that are shown before anybody asks for the rest
const LOOK_AGAIN = 5_000; // milliseconds, where others hold the last pairs, or decisions are not yet on the Hub
const SAID = { first: "A is better", second: "B is better", tie: "tie", skip: "skipped" };
const KEYS = {
  1: "first", arrowleft: "first", 2: "second", arrowright: "second", 0: "tie", t: "tie", s: "skip",
  u: "undo", backspace: "undo", h: "help",
};

const at = (id) => document.getElementById(id);
let task = null; // the pair that is shown
let raw = false; // whether texts are shown as they are
let busy = false; // whether the server is being asked
let timer = null;
let hub = null; // in a Space, how many decisions are on the Hub
let hubTimer = null;
const clock = { seconds: 0, since: null }; // how long the pair has been looked at

async function ask(path, body) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  clearTimeout(timer);
  try {
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(path, body === undefined ? {} : post);
    if (response.status === 401) return location.assign("sign-in");
    const reply = await response.json();
    if (response.ok) return reply;
    say("", reply.error);
    if (response.status === 409) task = null; // it is shown anew
  } catch {
    say("", "The server does not answer. Your last decision was not saved. Try again in a moment.");
  } finally {
    busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

async function next(message = "") {
  const reply = await ask("api/task");
  if (reply) {
    show(reply);
    say("", message);
  } else if (task === null) {
    timer = setTimeout(next, LOOK_AGAIN);
  }
}

async function decide(choice) {
  if (task === null) return;
  const { pair_id, first_sha256 } = task;
  const reply = await ask("api/decide", { pair_id, first_sha256, choice, seconds: secondsSoFar() });
  if (reply) {
    show(reply);
    say(`${hub === null ? "Saved" : "Recorded"}: ${SAID[choice]}.`);
  } else if (task === null) {
    next(at("alert").textContent); // which says why
  }
}

async function undo() {
  const reply = await ask("api/undo", {});
  if (reply) {
    show(reply);
    say(reply.undone ? "Undone. Choose again." : "There is nothing to undo.");
  }
}

function show(reply) {
  const again = task !== null && reply.task !== null && task.pair_id === reply.task.pair_id;
  task = reply.task;
  at("mine").textContent = `${reply.annotator} · ${reply.mine.toLocaleString("en")} by you`;
  at("everyone").textContent = `${reply.done.toLocaleString("en")} of ${reply.pairs.toLocaleString("en")} pairs`;
  at("bar").max = Math.max(reply.pairs, 1);
  at("bar").value = reply.done;
  showSaved(reply.hub);
  at("progress").hidden = !reply.is_lead;
  at("sign-out").hidden = !reply.has_accounts;
  at("task").hidden = task === null;
  at("nothing").hidden = task !== null;
  for (const choice of Object.keys(SAID)) at(`choose-${choice}`).disabled = task === null;
  if (task === null) {
    const all = reply.done === reply.pairs;
    at("nothing-title").textContent = all ? "All pairs are done" : "Nothing for you right now";
    at("nothing-text").textContent = all
      ? hub === null ? "Thank you. Every decision is saved." : "Thank you."
      : "Others have the last pairs before them, or are still to decide about those that you have labeled. This page looks again by itself.";
    if (!all) timer = setTimeout(next, LOOK_AGAIN);
    return;
  }
  showTexts();
  if (again) return;
  for (const pane of document.querySelectorAll(".pane")) pane.scrollTop = 0;
  scrollTo(0, 0);
  clock.seconds = 0;
  clock.since = document.hidden ? null : performance.now();
}

function showSaved(found) {
  hub = found;
  clearTimeout(hubTimer);
  if (hub === null) return;
  const [saved, decisions] = [hub.saved, hub.decisions].map((n) => n.toLocaleString("en"));
  at("saved").textContent = `Saved ${saved} of ${decisions}${hub.failing ? " (the Hub does not answer; trying again)" : ""}`;
  at("saved").classList.toggle("failing", hub.failing);
  if (hub.saved < hub.decisions) hubTimer = setTimeout(lookSaved, LOOK_AGAIN);
}

async function lookSaved() {
  const response = await fetch("api/saved").catch(() => null);
  showSaved(response?.ok ? await response.json() : hub);
}

function showTexts() {
  for (const part of ["prompt", "first", "second"]) {
    const several = task[part].length > 1;
    at(part).replaceChildren(...task[part].map((turn) => turnElement(turn, several)));
  }
}

function turnElement(turn, named) {
  const element = document.createElement("div");
  element.className = "turn";
  if (named) {
    const role = document.createElement("h3");
    role.textContent = turn.role;
    element.append(role);
  }
  const text = document.createElement("div");
  text.dir = "auto";
  element.append(text);
  if (turn.html !== null && !raw) {
    text.className = "markdown";
    text.innerHTML = turn.html; // sanitized by the server
    return element;
  }
  text.className = "raw";
  text.textContent = turn.text.slice(0, LONGEST);
  if (turn.text.length > LONGEST) {
    const more = document.createElement("button");
    more.type = "button";
    more.textContent = `Show all ${turn.text.length.toLocaleString("en")} characters`;
    more.addEventListener("click", () => {
      text.textContent = turn.text;
      more.remove();
    });
    element.append(more);
  }
  return element;
}

function say(status, alert = "") {
  at("status").textContent = status;
  at("alert").textContent = alert;
}

function secondsSoFar() {
  const running = clock.since === null ? 0 : (performance.now() - clock.since) / 1000;
  return Math.round((clock.seconds + running) * 100) / 100;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clock.seconds = secondsSoFar();
    clock.since = null;
  } else {
    clock.since = performance.now();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  // Digits by their place, which on some keyboards are typed with shift.
  const key = /^Digit[012]$/.test(event.code) && !event.shiftKey ? event.code.at(-1) : event.key.toLowerCase();
  const action = KEYS[key];
  if (action === undefined || (at("help").open && action !== "help")) return;
  if (key.startsWith("arrow") && event.target.closest("pre")) return; // which scrolls sideways
  event.preventDefault();
  act(action);
});

function act(action) {
  if (action === "undo") undo();
  else if (action !== "help") decide(action);
  else if (at("help").open) at("help").close();
  else at("help").showModal();
}

for (const choice of Object.keys(SAID)) at(`choose-${choice}`).addEventListener("click", () => act(choice));
at("undo").addEventListener("click", () => act("undo"));
at("ask-help").addEventListener("click", () => act("help"));
at("raw").addEventListener("click", () => {
  raw = !raw;
  at("raw").setAttribute("aria-pressed", String(raw));
  if (task !== null) showTexts();
});
at("sign-out").addEventListener("click", async () => {
  if (await ask("api/sign-out", {})) location.assign("sign-in");
});
next();
