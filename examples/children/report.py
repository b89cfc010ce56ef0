"""A job of the example training_monitor in plain Python: it fits a line to points, and speaks the listener's frames."""
import json, os, random, socket, struct, sys, time

def send(**frame):  # its length in four bytes, then the object
    text = json.dumps(frame).encode()
    parent.sendall(struct.pack(">I", len(text)) + text)

def post(cmd, **data):
    send(cmd=cmd, data=data)

job, address = json.loads(sys.argv[1]), os.environ["INTERPLAY_LISTENER"]
tcp = address.startswith("tcp:")
parent = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
parent.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])) if tcp else address)
send(interplay=1, token=os.environ["INTERPLAY_LISTENER_TOKEN"], source=job["name"], pid=os.getpid())
answers = parent.makefile("rb")
answer = json.loads(answers.read(*struct.unpack(">I", answers.read(4))))
assert answer["ok"], answer
post("update_status", status="WAITING")
assert sys.stdin.readline() == "TRAIN\n", "the parent is gone"
post("update_status", status="TRAINING")
chance, rate, slope, offset = random.Random(job["seed"]), job["rate"], 0, 0
points = [(x, 3 * x + 2 + chance.gauss(0, 0.1)) for x in (chance.uniform(-1, 1) for _ in range(job["rows"]))]
for epoch in range(1, job["epochs"] + 1):
    errors = [(slope * x + offset - y, x) for x, y in points]
    slope -= 2 * rate * sum(error * x for error, x in errors) / len(points)
    offset -= 2 * rate * sum(error for error, _ in errors) / len(points)
    post("set_item", key="loss", value=sum(error**2 for error, _ in errors) / len(points))
    post("set_item", key="epoch", value=epoch)
    time.sleep(job["pace"])
post("set_result", loss=sum((slope * x + offset - y) ** 2 for x, y in points) / len(points), weights=[slope, offset])
post("update_status", status="FINISHED")
send(bye=True)
