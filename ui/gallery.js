// Draws the cards of one page of results. File names and texts come from users' files: they are set as text, never as HTML.
export default function ({ data, parentElement, setTriggerValue }) {
  const element = (tag, className, text) => {
    const node = document.createElement(tag);
    node.className = className;
    if (text) node.textContent = text;
    return node;
  };

  const drawCard = (card) => {
    // A link, so that it can be opened in a new tab; a plain click stays in the session.
    const link = element("a", "card");
    link.href = card.href;
    link.title = [card.path, ...card.copies].join("\n");
    link.dataset.id = card.id;
    link.onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      setTriggerValue("open", card.href);
    };

    const thumb = element("div", `thumb ${card.kind}`);
    if (card.preview) {
      const image = element("img");
      image.src = card.preview;
      image.alt = "";
      image.onload = () => image.classList.toggle("tall", image.naturalHeight > image.naturalWidth);
      thumb.append(image);
    } else {
      thumb.append(element("span", "missing", "no preview"));
    }
    thumb.append(element("span", "badge", card.badge));
    if (card.place) thumb.append(element("span", "place", card.place));

    const caption = element("div", "caption");
    const title = element("div", "title");
    title.append(element("span", "name", card.name));
    if (card.relevance !== null) {
      const score = element("span", card.relevance < 0.5 ? "score weak" : "score", card.relevance.toFixed(2));
      score.title = "relevance, from 0 to 1";
      title.append(score);
    }
    caption.append(title, element("div", "snippet", card.snippet || card.folder));
    if (card.also_at) caption.append(element("div", "also-at", card.also_at));
    link.append(thumb, caption);
    return link;
  };

  parentElement.querySelector(".grid").replaceChildren(...data.cards.map(drawCard));
}
