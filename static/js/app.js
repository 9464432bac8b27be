// What the pages gain from JavaScript. Every page works without it: forms and links do the work.
"use strict";

document.documentElement.classList.add("js");

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const announce = (text) => { document.getElementById("announcer").textContent = text; };

// What is kept in this tab is one person's, and kept until they sign out, here or in another tab: whoever
// signs in next finds nothing of it.

const OWNER = "owner";
const SIGNED_OUT = "signed-out";
const { user } = document.body.dataset;
let isOver = false;

const owner = () => `${user} ${localStorage.getItem(SIGNED_OUT) ?? ""}`;

function forgetOthers() {
  const kept = sessionStorage.getItem(OWNER) ?? "";
  // While nobody is signed in, what a session that ended has left waits for whose it is.
  const isTheirs = user ? kept === owner() : kept.split(" ")[1] === owner().split(" ")[1];
  if (!isTheirs) sessionStorage.clear();
  if (user) sessionStorage.setItem(OWNER, owner());
}

forgetOthers();
// A page that the browser has kept as it was left.
addEventListener("pageshow", ({ persisted }) => {
  if (persisted && user && sessionStorage.getItem(OWNER) !== owner()) location.reload();
});
addEventListener("storage", ({ key }) => {
  if (key !== SIGNED_OUT || !user) return;
  isOver = true;
  sessionStorage.clear();
  saySessionEnded();
});

// Times: the server writes UTC, the reader sees how long ago that was, or their local time.

const clockTime = new Intl.DateTimeFormat(undefined, {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

function relative(moment, now) {
  const seconds = Math.round((now - moment) / 1000);
  const distance = Math.abs(seconds);
  if (distance >= 86400) return clockTime.format(moment);
  const words = distance < 60 ? `${distance} s`
    : distance < 3600 ? `${Math.floor(distance / 60)} min`
    : `${Math.floor(distance / 3600)} h`;
  if (distance < 1) return "now";
  return seconds < 0 ? `in ${words}` : `${words} ago`;
}

// On the axis of a chart: the local time, with the day where that is another one.
const axisTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const axisDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

function clock(moment, now) {
  const text = axisTime.format(moment);
  return axisDay.format(moment) === axisDay.format(now) ? text : `${axisDay.format(moment)} ${text}`;
}

// The step of a chart: from when until when, as the axis says it.
function span({ from, until }, now) {
  const [begin, end] = [Date.parse(from), Date.parse(until)];
  return `${clock(begin, now)} to ${clock(end, begin)}`;
}

function writeTimes() {
  const now = Date.now();
  for (const title of all("title[data-from]")) {
    const text = `${span(title.dataset, now)}: ${title.dataset.words}`;
    if (title.textContent !== text) title.textContent = text;
  }
  for (const time of all("time[datetime]")) {
    const moment = Date.parse(time.dateTime);
    const isPast = "due" in time.dataset && moment <= now;
    const text = isPast ? "due" : "clock" in time.dataset ? clock(moment, now) : relative(moment, now);
    if (time.textContent !== text) time.textContent = text;
  }
}

setInterval(() => { if (!document.hidden) writeTimes(); }, 1000);

// Fields for a time: UTC in the page and in addresses, local for the reader.

function localText(moment) {
  const local = new Date(moment.getTime() - moment.getTimezoneOffset() * 60000);
  return local.toISOString().slice(0, -1).replace(/\.000$/, "");
}

function utcText(local) {
  const moment = new Date(local);
  return Number.isNaN(moment.getTime()) ? local : moment.toISOString().replace(".000Z", "Z");
}

document.addEventListener("DOMContentLoaded", () => {
  for (const field of all("[data-utc]")) {
    const moment = new Date(`${field.defaultValue}Z`);
    if (!Number.isNaN(moment.getTime())) field.value = localText(moment);
    const zone = field.labels[0].querySelector("[data-zone]");
    zone.textContent = "your time";
    zone.title = Intl.DateTimeFormat().resolvedOptions().timeZone;
  }
});

// Polling: an element with `data-poll` (milliseconds) is asked for anew while it is on the page. It
// stops while the tab is hidden, slows down while nothing is new, and waits while it is in use.

const SLOWEST = 15000;
const pace = new WeakMap();
let sessionEnded = false;

// What has an id gets its focus back after a swap; an open menu, other focus or a selection would go.
function hasSelection(element) {
  const selection = getSelection();
  return !selection.isCollapsed && element.contains(selection.anchorNode);
}

function inUse(element) {
  const focused = document.activeElement;
  return element.querySelector("details[open]") !== null
    || (element.contains(focused) && !focused.id)
    || hasSelection(element);
}

function poll() {
  const now = performance.now();
  if (document.hidden || sessionEnded) return;
  for (const element of all("[data-poll]")) {
    const state = pace.get(element) || { next: now + Number(element.dataset.poll), wait: Number(element.dataset.poll) };
    pace.set(element, state);
    if (now < state.next || inUse(element)) continue;
    if ("logNews" in element.dataset && !isLive()) continue;
    state.next = now + state.wait;
    htmx.trigger(element, "poll");
  }
}

setInterval(poll, 250);

function quicken() {
  for (const element of all("[data-poll]")) pace.delete(element);
}

// Whoever cannot see the page is told that what it waited for has come.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  if (!detail.shouldSwap || !detail.target.querySelector(".waiting")) return;
  if (!detail.serverResponse.includes('class="waiting"')) announce("The first event is here.");
});

document.addEventListener("visibilitychange", () => {
  // Whoever comes back to a page whose owner has signed out sees what is theirs.
  if (isOver && !document.hidden) location.reload();
  // One may have signed in again in another tab.
  sessionEnded = false;
  quicken();
});
addEventListener("pointerdown", quicken);

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  const state = pace.get(detail.elt);
  if (!state) return;
  const first = Number(detail.elt.dataset.poll);
  state.wait = detail.xhr.status === 200 ? first : Math.min(Number(detail.elt.dataset.slowest) || SLOWEST, state.wait * 1.3);
  state.next = performance.now() + state.wait;
});

// What fails is said: at the foot of the page, until something succeeds again.

function say(text) {
  const toast = document.getElementById("toast");
  toast.hidden = !text;
  toast.textContent = text;
}

document.addEventListener("htmx:sendError", () => say("Mission Control does not answer. Trying again…"));
document.addEventListener("htmx:responseError", ({ detail }) => {
  if (detail.xhr.status === 401) return saySessionEnded();
  const refusal = detail.xhr.getResponseHeader("Content-Type")?.startsWith("text/plain") ? detail.xhr.responseText : "You may not do that.";
  say(detail.xhr.status === 403 ? refusal : `That did not work (${detail.xhr.status}). Load the page again.`);
});
document.addEventListener("htmx:afterOnLoad", ({ detail }) => {
  if (detail.xhr.status >= 400) return;
  say("");
  sessionEnded = false;
  document.getElementById("signed-out")?.setAttribute("hidden", "");
});

// A card whose figures do not come says so, in their place.
for (const name of ["htmx:sendError", "htmx:responseError"]) {
  document.addEventListener(name, ({ detail }) => {
    if (detail.elt.matches(".card-hour")) detail.elt.textContent = "The last hour cannot be shown now.";
  });
}

// The page stays as it is, with all that was typed; signing in leads back to it.
function saySessionEnded() {
  sessionEnded = true;
  say("");
  const notice = document.getElementById("signed-out");
  const link = notice.querySelector("a");
  link.search = new URLSearchParams({ next: location.pathname + location.search });
  const kept = document.getElementById("draft-is-kept");
  kept.hidden = isOver || !document.querySelector("[data-draft]");
  kept.querySelector("[data-apart]").hidden = document.querySelector("[data-draft=whole]") !== null;
  notice.hidden = false;
}

// Forms that filter leave out what is blank, so that addresses stay short.

document.addEventListener("htmx:configRequest", ({ detail }) => {
  const form = detail.elt.closest("[data-clean-get]");
  if (form) {
    for (const { name, value } of all("[data-utc]", form)) if (value) detail.formData.set(name, utcText(value));
    for (const [name, value] of [...detail.formData.entries()]) if (!value) detail.formData.delete(name);
  }
  // As one field: a server takes no more than so many of them. (The form has fields named `id`.)
  if (detail.elt.matches("#chosen")) {
    detail.formData.set("ids", detail.formData.getAll("id").join(","));
    detail.formData.delete("id");
  }
  if ("logNews" in detail.elt.dataset) {
    detail.parameters.seen = seenTokens().join(",");
    if (isReading() && !wantsNewest) detail.parameters.reading = "1";
  }
  if (detail.elt.id === "preview") detail.parameters.touched = [...touched].join(" ");
});

document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (event.defaultPrevented || !button) return;
  if (event.target.matches("[data-clean-get]")) {
    for (const field of event.target.elements) if (!field.value) field.disabled = true;
    return;
  }
  button.setAttribute("aria-busy", "true");
});

// What changes a member's role is offered once another one is chosen.

const showRole = (select) => select.form.classList.toggle("is-changed", !select.selectedOptions[0].defaultSelected);
document.addEventListener("change", ({ target }) => { if (target.matches(".members select")) showRole(target); });
addEventListener("pageshow", () => { for (const select of all(".members select")) showRole(select); });

// Another Eventing DB takes a moment: its rights are checked and its tables made.

document.addEventListener("submit", (event) => {
  const line = event.target.querySelector("[data-progress]");
  const chosen = event.target.elements.db?.selectedOptions[0];
  if (event.defaultPrevented || !line || !chosen || chosen.value === line.dataset.progress) return;
  line.textContent = `Checking ${chosen.text} and making its tables…`;
});

addEventListener("pageshow", () => {
  for (const line of all("[data-progress]")) line.textContent = "";
  for (const button of all("button[aria-busy]")) button.removeAttribute("aria-busy");
});

// Menus: one open at a time; Escape and a click elsewhere close it.

function closeMenus(except) {
  for (const menu of all("details.menu[open]")) if (menu !== except) menu.open = false;
}

document.addEventListener("click", (event) => closeMenus(event.target.closest("details.menu")));

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
  event.stopImmediatePropagation();
});

// A menu that is opened begins with its search; arrows go through what it has.
document.addEventListener("toggle", ({ target }) => {
  if (target.open && target.matches("details.menu") && pointer.matches) target.querySelector("[type=search]")?.focus();
}, true);

document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.("details.menu[open]");
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!menu || !step) return;
  const items = all(".menu-item, [type=search]", menu).filter((item) => !item.closest("[hidden]"));
  const at = items.indexOf(document.activeElement);
  event.preventDefault();
  items[Math.max(0, Math.min(items.length - 1, at + step))]?.focus();
});

document.addEventListener("input", (event) => {
  if (!event.target.matches("[data-filter]")) return;
  const wanted = event.target.value.trim().toLowerCase();
  const menu = event.target.closest("details");
  const items = all(".menu-list > li", menu);
  for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  menu.querySelector("[data-no-match]").hidden = items.some((item) => !item.hidden);
});

// Enter goes to the first of what is left.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("[data-filter]")) return;
  event.preventDefault();
  event.target.closest("details").querySelector(".menu-list > li:not([hidden]) > a")?.click();
});

// Theme: at once, without leaving the page; the cookie is the server's to set.

document.addEventListener("submit", (event) => {
  const form = event.target.closest("[data-theme-form]");
  if (!form || !event.submitter) return;
  event.preventDefault();
  const theme = event.submitter.value;
  const body = new FormData(form);
  body.set("theme", theme);
  fetch(form.action, { method: "POST", body, headers: { "HX-Request": "true" } });
  document.documentElement.dataset.theme = theme;
  for (const button of all("button", form)) button.setAttribute("aria-pressed", String(button.value === theme));
  closeMenus();
}, true);

// Copying

function sayCopied(button, text) {
  announce(text);
  button.lastChild.textContent = text;
  setTimeout(() => { button.lastChild.textContent = "Copy"; }, 3000);
}

// What is too long for the page is fetched whole.
async function wholeOf(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(answer.status);
  return new Blob([await answer.text()], { type: "text/plain" });
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy-from]");
  if (!button) return;
  button.setAttribute("aria-busy", "true");
  try {
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": wholeOf(button.dataset.copyFrom) })]);
    sayCopied(button, "Copied");
  } catch {
    sayCopied(button, "Not copied: use Raw");
  }
  button.removeAttribute("aria-busy");
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.querySelector(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    sayCopied(button, "Copied");
  } catch {
    source.hidden = false;
    getSelection().selectAllChildren(source);
    announce("Copying is not allowed here; the text is selected");
  }
});

// Event Logs: rows open in place; j and k move, Enter opens, Escape closes.

const rowLinks = () => all("#event-rows .row-link");

function toggleRow(link) {
  const detail = link.closest("tbody").querySelector(".detail");
  const opens = detail.hidden;
  detail.hidden = !opens;
  link.setAttribute("aria-expanded", String(opens));
  if (opens) htmx.trigger(link, "open");
  else detail.querySelector(".detail-body").replaceChildren();
}

document.addEventListener("click", (event) => {
  const row = event.target.closest("#event-rows .event-row");
  if (!row || event.target.closest(".c-choose")) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
  if (String(getSelection()) && !event.target.closest(".row-link")) return;
  event.preventDefault();
  toggleRow(row.querySelector(".row-link"));
});

function moveTo(link) {
  link.focus();
  link.scrollIntoView({ block: "nearest" });
}

const LOG_KEYS = {
  j: (links, at) => moveTo(links[Math.min(links.length - 1, at + 1)]),
  k: (links, at) => moveTo(links[Math.max(0, at - 1)]),
  o: (links, at) => { if (at >= 0) location.assign(links[at].href); },
  x: (links, at) => { if (at >= 0) links[at].closest(".event-row").querySelector(".c-choose input")?.click(); },
  l: () => document.getElementById("live")?.click(),
  "/": () => document.getElementById("id_trigger").focus(),
  "?": () => document.getElementById("keys").togglePopover(),
  Escape: (links, at) => {
    const link = at >= 0 ? links[at] : links.find((each) => each.getAttribute("aria-expanded") === "true");
    if (link?.getAttribute("aria-expanded") !== "true") return;
    toggleRow(link);
    link.focus();
  },
};

document.addEventListener("keydown", (event) => {
  if (!document.getElementById("keys") || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]")) return;
  const act = LOG_KEYS[event.key];
  const links = rowLinks();
  if (!act || (!links.length && "jkox".includes(event.key))) return;
  if (event.key !== "Escape") event.preventDefault();
  act(links, links.indexOf(document.activeElement.closest("tbody.event")?.querySelector(".row-link")));
});

// A changed row is replaced whole: it must still say that it is open, and that it is chosen.
const choosing = new Set();
let offering;

document.addEventListener("htmx:oobBeforeSwap", ({ detail }) => {
  const box = detail.target.querySelector?.(":scope > .c-choose input");
  if (box?.checked) choosing.add(box.value);
});

document.addEventListener("htmx:oobAfterSwap", ({ detail }) => {
  const row = detail.target.matches(".event-row") ? detail.target : null;
  const body = row?.closest("tbody")?.querySelector(".detail");
  if (body && !body.hidden) row.querySelector(".row-link").setAttribute("aria-expanded", "true");
  const box = row?.querySelector(".c-choose input");
  if (box && choosing.delete(box.value)) box.checked = true;
  if (!box?.checked) return;
  // Once for all the rows of an answer: there may be a thousand.
  clearTimeout(offering);
  offering = setTimeout(offerWhatCanBeDone);
});

// Choosing events: the bar at the foot says how many and what can be done with them.

const boxes = () => all("#event-rows .event-row .c-choose input");
const chosen = () => boxes().filter((box) => box.checked);
let lastChosen = null;

// What would do nothing is not offered; what does something says to how many. Events of deleted triggers,
// and those that can never be sent, are left alone by what sends.
function offerWhatCanBeDone() {
  const rows = chosen().map((box) => box.closest(".event-row").dataset);
  for (const affects of all("#chosen [data-affects]")) {
    const statuses = affects.dataset.affects.split(" ");
    const isAffected = (row) => statuses.includes(row.status) && !("sends" in affects.dataset && "leftAlone" in row);
    const count = rows.filter(isAffected).length;
    affects.textContent = count && count < rows.length ? ` (${count})` : "";
    affects.closest("button").disabled = rows.length > 0 && count === 0;
  }
}

function countChosen(answer = "") {
  const bar = document.getElementById("chosen");
  if (!bar) return;
  const count = chosen().length;
  document.getElementById("choice-count").textContent = count ? `${count.toLocaleString("en")} chosen` : "";
  if (!answer) document.getElementById("choice-answer").replaceChildren();
  offerWhatCanBeDone();
  bar.classList.toggle("has-choice", count > 0);
  bar.classList.toggle("has-answer", count === 0 && document.getElementById("choice-answer").textContent.trim() !== "");
  const every = document.getElementById("choose-all");
  if (every) {
    every.checked = count > 0 && count === boxes().length;
    every.indeterminate = count > 0 && !every.checked;
  }
}

document.addEventListener("click", ({ target, shiftKey }) => {
  if (target.id === "choose-all") {
    for (const box of boxes()) box.checked = target.checked;
  } else if (target.matches?.("#event-rows .c-choose input")) {
    const [from, to] = [boxes().indexOf(lastChosen), boxes().indexOf(target)];
    if (shiftKey && from >= 0) {
      for (const box of boxes().slice(Math.min(from, to), Math.max(from, to))) box.checked = target.checked;
    }
    lastChosen = target;
  } else if (target.closest?.("[data-choose-none]")) {
    for (const box of chosen()) box.checked = false;
  } else return;
  countChosen();
});

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!detail.elt.matches("#chosen") || detail.xhr.status !== 200) return;
  choosing.clear();
  for (const box of chosen()) box.checked = false;
  countChosen("answered");
});

// Live: rows that are new wait until putting them in moves nothing that is being read. When more
// is new than a page holds, the newest page takes the place of all, at once or when it is asked for.

const MOST_TOKENS = 60;
const MOST_ROWS = 600;
let waiting = [];
let tooMany = false;
let wantsNewest = false;

const isLive = () => document.getElementById("live")?.checked ?? false;

function seenTokens() {
  if (wantsNewest || (tooMany && !isReading())) return [];
  const rows = [...waiting.map((each) => each.querySelector(".event-row")), ...all("#event-rows .event-row")];
  return rows.slice(0, MOST_TOKENS).map((row) => row.dataset.token);
}

// A finger leaves no pointer behind, though the last row that it touched counts as under one.
const pointer = matchMedia("(hover: hover)");

function isReading() {
  const table = document.getElementById("event-rows");
  return document.getElementById("log-panel").getBoundingClientRect().top < 48 || table.querySelector('[aria-expanded="true"]') !== null
    || table.contains(document.activeElement) || chosen().length > 0
    || (pointer.matches && table.matches(":hover")) || hasSelection(table);
}

function showWaiting() {
  const pill = document.getElementById("news-pill");
  const text = tooMany ? "Many new events: show the newest" : `${waiting.length} new`;
  pill.hidden = !tooMany && waiting.length === 0;
  if (pill.textContent !== text) pill.textContent = text;
}

function letIn() {
  const table = document.getElementById("event-rows");
  document.getElementById("log-panel").classList.remove("empty-log");
  document.getElementById("log-actions").hidden = false;
  document.getElementById("log-empty")?.remove();
  for (const body of waiting) body.classList.add("arrived");
  table.tHead.after(...waiting);
  for (const body of waiting) htmx.process(body);
  waiting = [];
}

function replaceAll(bodies) {
  for (const body of all("tbody", document.getElementById("event-rows"))) body.remove();
  [waiting, tooMany, wantsNewest] = [bodies, false, false];
  letIn();
  for (const body of bodies) body.classList.remove("arrived");
  countChosen();
}

document.addEventListener("htmx:afterSwap", ({ detail }) => {
  writeTimes();
  if (detail.target.id === "log") countChosen();
  if (!("logNews" in detail.target.dataset)) return;
  const hasGap = detail.target.querySelector("[data-gap]") !== null;
  // Rows lie in a template, so that nothing in them begins to act before they are in the table.
  const rows = detail.target.querySelector("[data-rows]");
  const fresh = rows ? all("tbody", rows.content) : [];
  detail.target.replaceChildren();
  if (hasGap && fresh.length && (wantsNewest || !isReading())) replaceAll(fresh);
  else if (hasGap || waiting.length + rowLinks().length > MOST_ROWS) tooMany = true;
  else waiting = [...fresh, ...waiting];
  if (!tooMany && waiting.length && !isReading()) letIn();
  showWaiting();
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("#news-pill")) return;
  scrollTo({ top: 0 });
  if (tooMany) {
    wantsNewest = true;
    htmx.trigger("#news", "poll");
  } else letIn();
  showWaiting();
});

document.addEventListener("change", (event) => { if (event.target.id === "live") quicken(); });

document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  if (detail.target.id !== "log") return;
  [waiting, tooMany, wantsNewest] = [[], false, false];
});

// Going back to the log shows the rows that were loaded, where one left them. Browsers that keep the
// page itself need none of this.

const KEPT_LOG = "log";

addEventListener("pagehide", () => {
  const table = document.getElementById("event-rows");
  if (!table || isOver) return;
  for (const box of chosen()) box.setAttribute("checked", "");
  const kept = { address: location.href, rows: table.innerHTML, top: scrollY, at: Date.now() };
  try { sessionStorage.setItem(KEPT_LOG, JSON.stringify(kept)); } catch { sessionStorage.removeItem(KEPT_LOG); }
});

function showKeptLog() {
  const table = document.getElementById("event-rows");
  const kept = JSON.parse(sessionStorage.getItem(KEPT_LOG) || "null");
  const comesBack = performance.getEntriesByType("navigation")[0]?.type === "back_forward";
  if (!table || !comesBack || kept?.address !== location.href || Date.now() - kept.at > 3600000) return;
  history.scrollRestoration = "manual";
  table.innerHTML = kept.rows;
  htmx.process(table);
  for (const detail of all(".detail:not([hidden])", table)) {
    detail.closest("tbody").querySelector(".row-link").setAttribute("aria-expanded", "true");
  }
  countChosen();
  writeTimes();
  scrollTo(0, kept.top);
}

document.addEventListener("DOMContentLoaded", showKeptLog);
document.addEventListener("submit", (event) => {
  // A field may be named `action`, too.
  if (!event.target.getAttribute("action")?.endsWith("/sign-out/")) return;
  isOver = true;
  sessionStorage.clear();
  localStorage.setItem(SIGNED_OUT, String(Date.now()));
});

// Trigger form: more headers; fields that have been left are checked as one goes on.

const touched = new Set();

document.addEventListener("focusout", (event) => {
  if (event.target.closest("[data-trigger-form]") && event.target.name && event.target.value) touched.add(event.target.name);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add-header]");
  if (!button) return;
  const row = all(".header-row.new").at(-1).cloneNode(true);
  for (const field of all("input", row)) field.value = "";
  button.before(row);
  row.querySelector("input").focus();
});

// What has been typed into a form outlives a lost session or connection: it is kept in this tab until
// it has been saved. Secrets are not, but for those within a text that is kept as a whole.

const DRAFT = "draft:";
// A page may have several forms; a field may be named `action`.
const draftKey = (form) => `${DRAFT}${location.pathname}${location.search} ${form.getAttribute("action") ?? ""}`;
const isSecret = ({ name, type, form }) => type === "password" || name.startsWith("header_value")
  || name === "csrfmiddlewaretoken" || (name === "url" && form.matches("[data-database-form]"));
// Which state of a thing a form was filled in for belongs to what was typed.
const isKept = ({ name, type }) => name && type !== "submit" && (type !== "hidden" || name === "seen");
const fieldsOf = (form) => [...form.elements].filter((field) => isKept(field) && !isSecret(field));
const isChoice = ({ type }) => type === "checkbox" || type === "radio";

document.addEventListener("input", ({ target }) => {
  const form = target.closest("[data-draft]");
  if (!form) return;
  // Once fields that fill each other have done so.
  setTimeout(() => {
    if (isOver) return;
    const fields = fieldsOf(form).map((field) => [field.name, isChoice(field) ? `${field.value}\n${field.checked}` : field.value]);
    sessionStorage.setItem(draftKey(form), JSON.stringify(fields));
  });
});

document.addEventListener("click", ({ target }) => {
  const form = target.closest("[data-forget-draft]")?.closest("form");
  if (form) sessionStorage.removeItem(draftKey(form));
});

function takeUpDraft(form, kept) {
  const names = kept.filter(([name]) => name === "header_name").length;
  while (all("[name=header_name]", form).length < names) form.querySelector("[data-add-header]").click();
  const left = [...kept];
  for (const field of fieldsOf(form)) {
    const at = left.findIndex(([name, value]) => name === field.name && (!isChoice(field) || value.split("\n")[0] === field.value));
    if (at < 0) continue;
    const [[, value]] = left.splice(at, 1);
    const before = isChoice(field) ? field.checked : field.value;
    if (isChoice(field)) field.checked = value.endsWith("true");
    else field.value = value;
    const is = isChoice(field) ? field.checked : field.value;
    if (is !== before) field.closest("details")?.setAttribute("open", "");
  }
  if (form.matches("[data-database-form]")) {
    showType(form);
    if (form.alias.value) form.alias.dataset.typed = "yes";
  }
  form.querySelector("[data-draft-notice]").hidden = false;
  form.dispatchEvent(new Event("change", { bubbles: true }));
}

// What was typed into the form of something that is gone can at least be read, and copied.
document.addEventListener("DOMContentLoaded", () => {
  const place = document.querySelector("[data-lost-draft]");
  const key = Object.keys(sessionStorage).find((each) => each.startsWith(`${DRAFT}${location.pathname}${location.search} `));
  if (!place || !key) return;
  const lines = [];
  for (const [name, value] of JSON.parse(sessionStorage.getItem(key))) {
    const choice = /^(.*)\n(true|false)$/.exec(value);
    if (name !== "seen" && value && choice?.[2] !== "false") lines.push(`${name}: ${choice?.[1] ?? value}`);
  }
  place.querySelector("pre").textContent = lines.join("\n");
  place.hidden = false;
});

document.addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".notice-success")) {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(DRAFT)) sessionStorage.removeItem(key);
  }
  if (document.querySelector(".notice-error, #h-findings, #h-plan")) return;
  for (const form of all("[data-draft]")) {
    const kept = JSON.parse(sessionStorage.getItem(draftKey(form)) || "null");
    if (kept) takeUpDraft(form, kept);
  }
});

// Suggested tables continue what has been typed: after a comma begins the next name.
document.addEventListener("input", ({ target }) => {
  if (target.id !== "id_tables") return;
  const typed = target.value.slice(0, target.value.lastIndexOf(",") + 1);
  for (const option of all("#table-names option[data-name]")) {
    option.value = typed ? `${typed} ${option.dataset.name}` : option.dataset.name;
  }
});

// Project form: the id forms as the name is typed, until it is typed itself.

document.addEventListener("input", ({ target }) => {
  const form = target.closest("[data-project-form]");
  if (!form) return;
  const id = form.elements.namedItem("name");
  if (target === id) id.dataset.typed = id.value ? "yes" : "";
  if (target.name !== "title" || id.dataset.typed || id.defaultValue) return;
  const plain = target.value.toLowerCase().normalize("NFKD").replace(/[^ -~]/g, "");
  id.value = plain.replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 63);
});

// Database form: the connection string fills the fields, and they fill it once it is there.

const CONNECTIONS = {
  postgres: { scheme: "postgresql", schemes: /^postgres(ql)?:/, tls: "sslmode" },
  mysql: { scheme: "mysql", schemes: /^(mysql|mariadb):/, tls: "ssl-mode" },
  mongodb: { scheme: "mongodb", schemes: /^mongodb(\+srv)?:/, tls: "tls" },
};

function fillFields(form) {
  const typed = form.url.value.trim();
  const type = Object.keys(CONNECTIONS).find((name) => CONNECTIONS[name].schemes.test(typed));
  if (!type) return;
  // A list of hosts is no URL to a browser: it is put aside while the rest is read.
  const hosts = /\/\/(?:[^@/]*@)?([^/?@]*,[^/?@]*)/.exec(typed)?.[1];
  const single = (hosts ? typed.replace(hosts, "hosts") : typed).replace(CONNECTIONS[type].schemes, "http:");
  let url;
  try { url = new URL(single); } catch { return; }
  form.type.value = type;
  showType(form);
  form.host.value = hosts ?? url.hostname;
  form.port.value = hosts ? "" : url.port || form.querySelector("[name=type]:checked").dataset.port;
  form.database.value = decodeURIComponent(url.pathname.slice(1));
  form.user.value = decodeURIComponent(url.username);
  form.password.value = decodeURIComponent(url.password);
  form.tls.value = url.searchParams.get(CONNECTIONS[type].tls) || "";
}

function fillString(form) {
  const { scheme: usual, schemes, tls } = CONNECTIONS[form.type.value];
  const scheme = schemes.exec(form.url.value.trim())?.[0].slice(0, -1) ?? usual;
  const part = (name) => encodeURIComponent(form[name].value);
  const password = form.password.value ? `:${part("password")}` : "";
  const user = form.user.value ? `${part("user")}${password}@` : "";
  const port = form.port.value ? `:${form.port.value}` : "";
  const mode = form.tls.value ? `?${tls}=${form.tls.value}` : "";
  form.url.value = `${scheme}://${user}${form.host.value}${port}/${part("database")}${mode}`;
}

// Only what belongs to the chosen type is offered.
function showType(form) {
  const isOwn = !CONNECTIONS[form.type.value];
  const address = form.querySelector("[data-address]");
  address.hidden = address.disabled = isOwn;
  form.schemas.closest(".field").hidden = form.type.value !== "postgres";
  if (isOwn) return;
  for (const group of all("#id_tls optgroup", form)) {
    group.hidden = group.disabled = group.dataset.type !== form.type.value;
  }
  if (form.tls.selectedOptions[0]?.parentElement.disabled) form.tls.value = "";
  form.url.placeholder = form.url.placeholder.replace(/^[a-z]+:\/\/(user:password@host):\d+/,
    `${CONNECTIONS[form.type.value].scheme}://$1:${form.querySelector("[name=type]:checked").dataset.port}`);
}

document.addEventListener("change", ({ target }) => {
  if (target.name !== "type" || !target.closest("[data-database-form]")) return;
  const { form } = target;
  const ports = all("[name=type]", form).map((choice) => choice.dataset.port);
  if (!form.port.value || ports.includes(form.port.value)) form.port.value = target.dataset.port;
  showType(form);
});

htmx.onLoad(() => { for (const form of all("[data-database-form]")) showType(form); });

document.addEventListener("input", (event) => {
  const form = event.target.closest("[data-database-form]");
  if (!form) return;
  const name = event.target.name;
  if (name === "url" && !form.url.value.includes("${")) fillFields(form);
  else if (["host", "port", "database", "user", "password", "tls"].includes(name) && form.url.value) fillString(form);
  if (name === "alias") form.alias.dataset.typed = "yes";
  if ((name === "database" || name === "url") && !form.alias.dataset.typed && !form.alias.defaultValue) {
    form.alias.value = form.database.value.replace(/[^A-Za-z0-9_.-]/g, "-").replace(/^[^A-Za-z0-9]+/, "");
  }
});

writeTimes();
