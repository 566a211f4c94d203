// Conveniences: the page does without them, and is loaded again by hand.
"use strict";

const url = document.currentScript.dataset.url;
const said = document.getElementById("said");
// The HTML of each part as the server wrote it, by id: what changed since is replaced, no more.
const written = new Map();

for (const part of document.querySelectorAll("[data-part]")) written.set(part.id, part.outerHTML);

// Where there is room, all forms are unfolded.
if (matchMedia("(min-width: 60rem)").matches) {
  for (const card of document.querySelectorAll(".card")) card.open = true;
}

// Put a part of the new page in the place of the old one; the keyboard stays where it was.
function replace(part, fresh) {
  const link = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  part.replaceWith(fresh);
  if (link !== null) fresh.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus();
}

// Bring the page up to date; return what has ended since, in words.
function update(page) {
  const ended = [];
  for (const list of page.querySelectorAll("[data-list]")) {
    const here = document.getElementById(list.id);
    const wanted = [...list.children];
    const ids = new Set(wanted.map((part) => part.id));
    for (const part of [...here.children]) {
      if (ids.has(part.id)) continue;
      written.delete(part.id);
      part.remove();
    }
    wanted.forEach((part, place) => {
      if (!document.getElementById(part.id)) here.insertBefore(document.createElement("li"), here.children[place]).id = part.id;
      const mine = document.getElementById(part.id);
      if (here.children[place] !== mine) here.insertBefore(mine, here.children[place]);
    });
  }
  for (const part of [...page.querySelectorAll("[data-part]")]) {
    const html = part.outerHTML;
    if (written.get(part.id) === html) continue;
    const mine = document.getElementById(part.id);
    if (part.dataset.ended && !mine.dataset.ended) ended.push(part.dataset.ended);
    written.set(part.id, html);
    replace(mine, part);
  }
  document.getElementById("live").dataset.busy = page.getElementById("live").dataset.busy;
  return ended;
}

// For screen readers: what has ended, not every step.
function announce(ended) {
  if (ended.length) said.textContent = ended.length > 3 ? `${ended.length} tasks have ended.` : ended.join(". ");
}

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch(url, { cache: "no-cache" });
      if (answer.ok) announce(update(new DOMParser().parseFromString(await answer.text(), "text/html")));
      document.body.classList.toggle("is-away", !answer.ok);
    } catch {
      document.body.classList.add("is-away"); // the next turn finds it again
    }
  }
  setTimeout(refresh, document.getElementById("live").dataset.busy === "yes" ? 400 : 3000);
}

// How long until an attempt comes.
function countDown() {
  for (const time of document.querySelectorAll("time[data-due]")) {
    const seconds = Math.ceil((new Date(time.dateTime) - Date.now()) / 1000);
    const clock = (time.dataset.clock ??= time.textContent);
    time.textContent = seconds > 0 ? `${clock}, in ${seconds} s` : `${clock}, now`;
  }
}

setTimeout(refresh, 400);
setInterval(countDown, 200);
