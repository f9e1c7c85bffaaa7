// Images on a plane: drag to move, the wheel or a double click to zoom, hover to see.
function plane(root, map) {
  const [canvas, legend, pictures, find] =
    ["canvas", ".legend", "[name=pictures]", "[name=find]"].map(
      name => root.querySelector(name));
  const pen = canvas.getContext("2d"), atlas = new Image();
  const whole = root.classList.contains("whole");
  const style = getComputedStyle(document.documentElement);
  let scale = 1, x0 = 0, y0 = 0, across = 1, up = 1, width = 1, height = 1, last = null;

  // More classes than colours cannot be told apart by these; the pointer tells them.
  const named = Object.entries(map.colours);
  for (const [name, colour] of named.length > 10 ? [] : named) {
    const mark = made("span"), dot = made("i");
    dot.style.background = colour;
    mark.append(dot, name);
    legend.append(mark);
  }
  if (!map.atlas) pictures.parentNode.hidden = true;

  function ink(text) {
    return text.startsWith("var(") ? style.getPropertyValue(text.slice(4, -1)) : text;
  }

  function at(point) {
    return [x0 + point[0] * across * scale, y0 + point[1] * up * scale];
  }

  function draw() {
    pen.clearRect(0, 0, width, height);
    const wanted = find.value.toLowerCase();
    const side = Math.min(map.side, Math.max(18, 18 * scale));
    for (const point of map.points) {
      const [x, y] = at(point);
      if (x < -side || y < -side || x > width + side || y > height + side) continue;
      pen.globalAlpha = wanted && !point[2].toLowerCase().includes(wanted) ? 0.12 : 1;
      if (pictures.checked && map.atlas && atlas.complete && point[4] >= 0) {
        const s = map.side, i = point[4];
        pen.drawImage(atlas, (i % map.across) * s, Math.floor(i / map.across) * s, s, s,
          x - side / 2, y - side / 2, side, side);
      } else {
        pen.fillStyle = ink(map.colours[point[3]] || map.colour);
        pen.beginPath();
        pen.arc(x, y, Math.min(7, 2.5 + scale / 2), 0, 7);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
  }

  function fit() {
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    pen.scale(devicePixelRatio, devicePixelRatio);
    up = Math.max(50, Math.min(width, height) - 30);
    across = Math.max(50, Math.min(width - 30, 1.6 * up));
    scale = 1;
    x0 = (width - across) / 2;
    y0 = (height - up) / 2;
    draw();
  }

  function zoom(event, factor) {
    event.preventDefault();
    const next = Math.min(200, Math.max(0.5, scale * factor)), f = next / scale;
    x0 = event.offsetX - (event.offsetX - x0) * f;
    y0 = event.offsetY - (event.offsetY - y0) * f;
    scale = next;
    draw();
  }

  function show(event) {
    let best = null, near = 20;
    for (const point of map.points) {
      const [x, y] = at(point), d = Math.hypot(x - event.offsetX, y - event.offsetY);
      if (d < near) { near = d; best = point; }
    }
    if (!best) return hush();
    const parts = [made("div", best[2] + (best[3] ? ` (${best[3]})` : ""))], i = best[4];
    if (i >= 0) {
      const image = made("div", "", "image");
      image.style.backgroundImage = `url(${map.atlas})`;
      image.style.backgroundSize = `${map.across * 96}px auto`;
      image.style.backgroundPosition =
        `${-(i % map.across) * 96}px ${-Math.floor(i / map.across) * 96}px`;
      parts.unshift(image);
    }
    tell(event, parts);
  }

  canvas.addEventListener("pointerdown", event => { last = event; });
  addEventListener("pointerup", () => { last = null; });
  canvas.addEventListener("pointermove", event => {
    if (last) {
      x0 += event.clientX - last.clientX;
      y0 += event.clientY - last.clientY;
      last = event;
      draw();
    }
    show(event);
  });
  canvas.addEventListener("pointerleave", hush);
  canvas.addEventListener("wheel", event => {
    // Within a longer page the wheel alone moves that.
    if (whole || event.ctrlKey) zoom(event, Math.exp(-event.deltaY / 400));
  }, { passive: false });
  canvas.addEventListener("dblclick", event => zoom(event, event.shiftKey ? 0.6 : 1.7));
  pictures.addEventListener("change", draw);
  find.addEventListener("input", draw);
  addEventListener("resize", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  atlas.onload = draw;
  if (map.atlas) atlas.src = map.atlas;
  fit();
}

for (const root of document.querySelectorAll(".plane")) plane(root, data.map);
