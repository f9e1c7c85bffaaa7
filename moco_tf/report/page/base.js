const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

// An element with a class and a text, which is never read as HTML.
function made(name, text = "", kind = "") {
  const element = document.createElement(name);
  element.textContent = text;
  element.className = kind;
  return element;
}

// Shows some elements beside the pointer.
function tell(event, parts) {
  tip.replaceChildren(...parts);
  tip.hidden = false;
  const left = event.clientX + 16, top = event.clientY + 16;
  const right = innerWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(left, right))}px`;
  const below = top + tip.offsetHeight < innerHeight;
  tip.style.top = `${below ? top : Math.max(8, top - tip.offsetHeight - 32)}px`;
}

function hush() {
  tip.hidden = true;
}
