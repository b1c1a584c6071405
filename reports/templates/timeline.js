// Pointing at the chart, or moving along it with the arrow keys, shows the
// window there; a click or tap also plays the video from it.
(function () {
  const items = [...document.querySelectorAll("#windows > li")];
  const chart = document.getElementById("chart");
  const video = document.querySelector("video");
  function hideVideo() {
    video.hidden = true;
    document.getElementById("unplayable").hidden = false;
  }
  if (video) {
    if (video.error) hideVideo(); // it failed before this script was read
    video.addEventListener("error", hideVideo);
  }
  if (!items.length) return;
  document.documentElement.classList.add("scripted");
  const end = Number(chart.dataset.end);
  const starts = items.map((item) => Number(item.dataset.start));
  const ends = items.map((item) => Number(item.dataset.end));
  const now = document.getElementById("now");
  const reach = document.createElement("div");
  const [chosen, aim] = [0, 1].map(() => document.createElement("span"));
  let current = 0;

  function indexAt(seconds) {
    let index = starts.findIndex((start) => start > seconds);
    if (index < 0) index = items.length;
    return Math.max(0, index - 1);
  }
  function place(mark, index) {
    mark.style.left = (100 * starts[index]) / end + "%";
    mark.style.width = (100 * (ends[index] - starts[index])) / end + "%";
  }
  function show(index) {
    const item = items[index];
    now.querySelector("h2").textContent =
      item.querySelector(".at").textContent;
    now.querySelector(".scores").innerHTML =
      item.querySelector(".scores").innerHTML;
    // Long videos have a picture for some of the windows only.
    let other = index;
    while (other > 0 && !items[other].querySelector("img")) other -= 1;
    const picture = items[other].querySelector("img");
    const box = now.querySelector(".picture");
    box.hidden = !picture;
    if (picture) box.querySelector("img").src = picture.src;
    box.querySelector("small").textContent =
      other === index ? "" : "Picture of " +
      items[other].querySelector(".at").textContent;
  }
  function choose(index, seek) {
    current = index;
    place(chosen, index);
    show(index);
    reach.setAttribute("aria-valuenow", index);
    reach.setAttribute(
      "aria-valuetext",
      items[index].querySelector(".at").textContent + ": " +
        [...items[index].querySelectorAll(".scores li")]
          .map((line) => [...line.children].map((one) => one.textContent))
          .map(([label, percent]) => label + " " + percent)
          .join(", "),
    );
    if (seek && video && !video.hidden) video.currentTime = starts[index];
  }
  function pointed(event) {
    const box = reach.getBoundingClientRect();
    return indexAt(((event.clientX - box.left) / box.width) * end);
  }

  reach.className = "reach";
  for (const [name, value] of Object.entries({
    role: "slider",
    tabindex: 0,
    "aria-label": "Window of the video",
    "aria-valuemin": 0,
    "aria-valuemax": items.length - 1,
  })) {
    reach.setAttribute(name, value);
  }
  aim.className = "aim";
  aim.hidden = true;
  reach.append(chosen, aim);
  chart.append(reach);
  now.hidden = false;

  reach.addEventListener("pointermove", (event) => {
    const index = pointed(event);
    if (event.buttons) choose(index, true);
    aim.hidden = false;
    place(aim, index);
    show(index);
  });
  reach.addEventListener("pointerdown", (event) => {
    choose(pointed(event), true);
  });
  reach.addEventListener("pointerleave", () => {
    aim.hidden = true;
    show(current);
  });
  reach.addEventListener("keydown", (event) => {
    const far = Math.max(2, Math.round(items.length / 10));
    const step = {
      ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1,
      PageUp: far, PageDown: -far, Home: -items.length, End: items.length,
    }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(Math.min(items.length - 1, Math.max(0, current + step)), true);
  });
  if (video) {
    video.addEventListener("timeupdate", () => {
      const index = indexAt(video.currentTime);
      if (index !== current) choose(index, false);
    });
  }
  function follow() {
    const asked = /^#t=([\d.]+)$/.exec(location.hash);
    if (asked) choose(indexAt(Number(asked[1])), true);
  }
  window.addEventListener("hashchange", follow);
  choose(0, false);
  follow();
})();
