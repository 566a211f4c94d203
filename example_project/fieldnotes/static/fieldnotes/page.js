// Two conveniences; the page does without them.
"use strict";

// Where there is room, all forms are unfolded.
if (matchMedia("(min-width: 60rem)").matches) {
  for (const card of document.querySelectorAll(".card")) card.open = true;
}

// The changing part of the page is put in again: often while tasks are under way, else now and then.
const url = document.currentScript.dataset.url;

async function refresh() {
  let live = document.getElementById("live");
  if (!document.hidden && !live.contains(document.activeElement)) {
    try {
      const answer = await fetch(url);
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById("live");
        if (fresh && fresh.outerHTML !== live.outerHTML) {
          live.replaceWith(fresh);
          live = fresh;
        }
      }
    } catch {
      // The site is away for a moment: the next turn finds it again.
    }
  }
  setTimeout(refresh, live.dataset.busy === "yes" ? 700 : 4000);
}

setTimeout(refresh, 700);
