// The search: each word must be in the name of the class or of the file.
(function () {
  const bar = document.getElementById("bar");
  if (!bar) return;
  const input = bar.querySelector("input");
  const count = document.getElementById("count");
  const nothing = document.getElementById("nothing");

  // Letters that look alike are alike: accents and capitals are left out, and
  // characters that can be encoded in several ways are written in one.
  function plain(text) {
    return text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  }
  const sections = [...document.querySelectorAll("section")].map((section) => ({
    section,
    link: document.querySelector('nav a[href="#' + section.id + '"]').parentNode,
    name: plain(section.dataset.name),
    cards: [...section.querySelectorAll(".card")].map((card) => ({
      card, name: plain(card.dataset.name), video: card.dataset.video,
    })),
  }));
  const total = count.textContent;

  function search() {
    const words = plain(input.value).split(/\s+/).filter(Boolean);
    const videos = new Set();
    let classes = 0;
    for (const { section, link, name, cards } of sections) {
      let shown = 0;
      for (const one of cards) {
        const found = words.every(
          (word) => name.includes(word) || one.name.includes(word),
        );
        one.card.hidden = !found;
        if (found) {
          shown += 1;
          videos.add(one.video);
        }
      }
      section.hidden = link.hidden = !shown;
      if (shown) classes += 1;
    }
    nothing.hidden = classes > 0;
    count.textContent = !words.length ? total :
      videos.size + (videos.size === 1 ? " video, " : " videos, ") +
      classes + (classes === 1 ? " class" : " classes");
  }
  bar.hidden = false;
  input.addEventListener("input", search);
  if (input.value) search(); // kept by the browser when the page is reloaded
})();
