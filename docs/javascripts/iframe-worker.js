// Browsers start no worker from a page that was opened as a file: there, the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><html lang='en'><title>Search</title><body></body></html>";
      this.frame.addEventListener("load", () => this.load(url), { once: true });
      document.body.append(this.frame);
    }

    load(url) {
      const scope = this.frame.contentWindow;
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = scope.document.createElement("script");
      script.src = url;
      script.addEventListener("load", () => {
        this.receive = (data) => scope.dispatchEvent(new scope.MessageEvent("message", { data }));
        this.waiting.forEach(this.receive);
      });
      scope.document.body.append(script);
    }

    postMessage(data) {
      if (this.receive) this.receive(data);
      else this.waiting.push(data);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
