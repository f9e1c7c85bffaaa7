const short = value => String(Number(value.toPrecision(4)));

// The figures of the epoch under the pointer.
for (const svg of document.querySelectorAll("svg[data-panel]")) {
  const panel = data.panels[svg.dataset.panel];
  const curves = panel.lines.filter(line => line.column).map(line => {
    const columns = data.runs[line.run], found = new Map();
    columns.epoch.forEach((epoch, row) => {
      const value = columns[line.column][row];
      if (value !== null && epoch !== null) found.set(epoch, value);
    });
    return { line, found };
  });
  const epochs = [...new Set(curves.flatMap(curve => [...curve.found.keys()]))];
  const mark = svg.querySelector(".at"), [left, right] = panel.box, [x0, x1] = panel.x;
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const wanted = x0 + (place - left) / (right - left) * (x1 - x0);
    const epoch = epochs.reduce((best, one) =>
      Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best, epochs[0]);
    const x = left + (epoch - x0) / (x1 - x0) * (right - left);
    mark.setAttribute("x1", x);
    mark.setAttribute("x2", x);
    mark.setAttribute("visibility", "visible");
    const rows = [made("b", `epoch ${epoch}`)];
    for (const { line, found } of curves) {
      if (!found.has(epoch)) continue;
      const row = made("div"), dot = made("i");
      dot.style.color = `var(--c${line.colour})`;
      row.append(dot, `${line.name} ${short(panel.scale * found.get(epoch))}`);
      rows.push(row);
    }
    for (const line of panel.lines.filter(line => !line.column))
      rows.push(made("div", `${line.name} ${short(panel.scale * line.level)}`, "level"));
    tell(event, rows);
  });
  svg.addEventListener("pointerleave", () => {
    mark.setAttribute("visibility", "hidden");
    hush();
  });
}

// The whole history as a table, once somebody asks for it.
for (const details of document.querySelectorAll("details[data-run]")) {
  details.addEventListener("toggle", () => {
    const columns = data.runs[details.dataset.run], names = Object.keys(columns);
    const table = made("table"), head = made("thead"), body = made("tbody");
    head.append(made("tr"));
    head.firstChild.append(...names.map(name => made("th", name)));
    columns.epoch.forEach((_, row) => {
      const line = made("tr");
      const cells = names.map(name => columns[name][row] ?? "");
      line.append(...cells.map(cell => made("td", String(cell))));
      body.append(line);
    });
    table.append(head, body);
    details.lastElementChild.replaceChildren(table);
  }, { once: true });
}

// While the run is under way the page is read again, but not from under somebody's hand.
if (data.refresh) {
  const age = Date.now() / 1000 - data.written, note = document.getElementById("age");
  if (age > data.silence) {
    note.textContent = `Nothing was written for ${Math.round(age / 60)} minutes: the run ` +
      "may have been killed; the same command goes on from its last checkpoint.";
  }
  setInterval(() => {
    const isRead = !tip.hidden || document.querySelector("details[open]");
    if (!isRead && !document.hidden) location.reload();
  }, 1000 * data.refresh);
}
