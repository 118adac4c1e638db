// Keeps the page current: asks for its live part every two seconds and swaps the sections that changed.
const EVERY_MS = 2000;
const GIVE_UP_MS = 8000;
const lost = document.getElementById("lost");
let last = new Date();
let timer = 0;
let busy = false;

function swap(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const section of fresh.body.children) {
    const shown = document.getElementById(section.id);
    if (shown === null) continue;
    // What the reader has unfolded stays so.
    for (const part of shown.querySelectorAll("details[open]")) fresh.getElementById(part.id)?.setAttribute("open", "");
    if (shown.outerHTML === section.outerHTML) continue;
    // A section in which the reader has marked text or set the focus stays as it is until they are done; one that was
    // only folded or unfolded goes on.
    const selection = getSelection();
    const reading = selection && !selection.isCollapsed && shown.contains(selection.anchorNode);
    const focus = shown.contains(document.activeElement) ? document.activeElement : null;
    const folded = focus?.localName === "summary" ? focus.parentElement.id : "";
    if (reading || (focus && !fresh.getElementById(folded))) continue;
    shown.replaceWith(document.adoptNode(section));
    if (folded) document.getElementById(folded).querySelector("summary").focus({ preventScroll: true });
  }
}

async function refresh() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    // By its whole address: browsers refuse "/fragment" on a page that was opened as https://me:token@host/.
    const answer = await fetch(`${location.origin}/fragment`, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    swap(await answer.text());
    last = new Date();
    lost.hidden = true;
    document.body.classList.remove("stale");
  } catch {
    document.getElementById("lost-since").textContent = last.toLocaleTimeString();
    lost.hidden = false;
    document.body.classList.add("stale");
  } finally {
    busy = false;
  }
}

function run() {
  clearInterval(timer);
  if (document.hidden) return;
  refresh();
  timer = setInterval(refresh, EVERY_MS);
}

document.addEventListener("visibilitychange", run);
timer = setInterval(refresh, EVERY_MS);
