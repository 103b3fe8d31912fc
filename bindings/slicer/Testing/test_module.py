#!/usr/bin/env python3
"""The module with stubs in place of 3D Slicer, and the real program.

    VOXTILE_PROGRAM=target/release/voxtile python3 bindings/slicer/Testing/test_module.py
"""

import gzip
import os
import shutil
import struct
import sys
import tempfile
import time
import types
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
MODULE = HERE.parent / "Voxtile"
PROGRAM = Path(os.environ.get("VOXTILE_PROGRAM", ROOT / "target" / "release" / "voxtile")).resolve()
MODEL = ROOT / "examples" / "demo.safetensors"


def write_nrrd(path):
    """The example's volume as 3D Slicer saves one, of which the logic knows nothing."""
    data = gzip.decompress((ROOT / "examples" / "ct_part.nii.gz").read_bytes())
    sizes = struct.unpack("<3h", data[42:48])
    kind = {4: "short", 8: "int", 16: "float"}[struct.unpack("<h", data[70:72])[0]]
    offset = int(struct.unpack("<f", data[108:112])[0])
    header = (
        f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {sizes[0]} {sizes[1]} {sizes[2]}\n"
        "space directions: (-3,0,0) (0,-3,0) (0,0,3)\nkinds: domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    Path(path).write_bytes(header.encode() + data[offset:])


class Node:
    def __init__(self, name):
        self.name = name
        self.calls = {}

    def GetName(self):
        return self.name

    def SetName(self, name):
        self.name = name

    def GetTransformNodeID(self):
        return "vtkMRMLTransformNode1"

    def GetStorageNode(self):
        return self

    def __getattr__(self, name):
        if name.startswith("Set"):
            return lambda *values: self.calls.__setitem__(name, values)
        raise AttributeError(name)


class Widgets(types.SimpleNamespace):
    """Widgets that keep what is set, and their slots."""

    def __getattr__(self, name):
        widget = Widget()
        setattr(self, name, widget)
        return widget


class Widget(types.SimpleNamespace):
    def __init__(self):
        super().__init__(slots={}, text="", checked=False, currentText="auto", currentPath="", node=None)

    def connect(self, signal, slot):
        self.slots[signal.split("(")[0]] = slot

    def setCurrentPath(self, path):
        self.currentPath = path

    def setMRMLScene(self, scene):
        self.scene = scene

    def currentNode(self):
        return self.node


class Timer(Widget):
    running = False

    def setInterval(self, _):
        pass

    def start(self):
        self.running = True

    def stop(self):
        self.running = False


class Settings:
    values = {}

    def value(self, key, otherwise):
        return self.values.get(key, otherwise)

    def setValue(self, key, value):
        self.values[key] = value


def install_stubs():
    """`slicer`, its parts and `qt`, as far as the module uses them."""
    slicer = types.ModuleType("slicer")
    slicer.errors = []
    slicer.loaded = []
    slicer.mrmlScene = object()
    slicer.app = Widget()
    slicer.app.temporaryPath = tempfile.mkdtemp(prefix="voxtile-test-")

    def saveNode(node, path, properties):
        assert properties == {"useCompression": 0}
        if node.name == "unsavable":
            return False
        write_nrrd(path)
        return True

    def loadSegmentation(path):
        slicer.loaded.append(Path(path).read_bytes())
        return Node("loaded")

    slicer.util = types.SimpleNamespace(
        saveNode=saveNode,
        loadSegmentation=loadSegmentation,
        errorDisplay=slicer.errors.append,
        loadUI=lambda path: ElementTree.parse(path) and Widget(),
        childWidgetVariables=lambda _: Widgets(),
    )
    scripted = types.ModuleType("slicer.ScriptedLoadableModule")

    class Module:
        def __init__(self, parent):
            self.parent = parent

    class ModuleWidget:
        layout = types.SimpleNamespace(addWidget=lambda _: None)

        def setup(self):
            pass

        def resourcePath(self, name):
            return str(MODULE / "Resources" / name)

    scripted.ScriptedLoadableModule = Module
    scripted.ScriptedLoadableModuleWidget = ModuleWidget
    scripted.ScriptedLoadableModuleLogic = type("Logic", (), {"__init__": lambda self: None})
    scripted.ScriptedLoadableModuleTest = unittest.TestCase
    qt = types.ModuleType("qt")
    qt.QTimer, qt.QSettings = Timer, Settings
    sys.modules.update({"slicer": slicer, "slicer.ScriptedLoadableModule": scripted, "qt": qt})
    return slicer


slicer = install_stubs()
sys.dont_write_bytecode = True
sys.path.insert(0, str(MODULE))
import VoxtileLib  # noqa: E402
import VoxtileSegmentation as module  # noqa: E402


def finish(poll, seconds=120):
    """Polls as a timer would; the shares of the run that were seen."""
    end = time.monotonic() + seconds
    while not poll():
        assert time.monotonic() < end, "the run does not end"
        time.sleep(0.01)


class LogicTest(unittest.TestCase):
    def setUp(self):
        slicer.errors.clear()
        slicer.loaded.clear()
        self.programs = tempfile.TemporaryDirectory()
        self.addCleanup(self.programs.cleanup)
        os.symlink(PROGRAM, Path(self.programs.name) / "voxtile")
        self.logic = module.VoxtileSegmentationLogic()
        self.logic.programFolders = lambda: [self.programs.name]

    def leftovers(self):
        return os.listdir(slicer.app.temporaryPath)

    def test_a_volume_becomes_a_segmentation(self):
        shares = []
        self.logic.start(Node("CT"), MODEL, threads=1)
        with self.assertRaisesRegex(module.ProgramError, "is running"):
            self.logic.start(Node("other"), MODEL)

        def poll():
            finished = self.logic.poll()
            shares.append(self.logic.progress)
            return finished

        finish(poll)
        self.assertEqual(shares, sorted(shares))
        self.assertEqual(shares[-1], 1.0)
        header = slicer.loaded[0].split(b"\n\n")[0].decode()
        self.assertIn("Name:=liver", header)
        self.assertIn("SCT^10200004^Liver", header)
        found = self.logic.segmentation
        self.assertEqual(found.name, "CT segmentation")
        self.assertEqual(found.calls["SetFileName"], ("",))
        self.assertIn("SetReferenceImageGeometryParameterFromVolumeNode", found.calls)
        self.assertEqual(found.calls["SetAndObserveTransformNodeID"], ("vtkMRMLTransformNode1",))
        self.assertEqual(self.leftovers(), [])
        # The demonstration model says what it is; that is no failure.
        self.assertTrue(any("DEMONSTRATION" in line for line in self.logic.run.log))

    def test_a_cancelled_run_leaves_nothing(self):
        self.logic.start(Node("CT"), MODEL, threads=1, mirror=True)
        self.assertTrue(self.logic.running)
        self.logic.cancel()
        with self.assertRaisesRegex(module.ProgramError, "Cancelled"):
            finish(self.logic.poll)
        self.assertFalse(self.logic.running)
        self.assertTrue(self.logic.cancelled)
        self.assertEqual((slicer.loaded, self.leftovers()), ([], []))
        # And the next one runs.
        self.logic.start(Node("CT"), MODEL, labels="liver, spleen")
        finish(self.logic.poll)
        header = slicer.loaded[0].split(b"\n\n")[0].decode()
        self.assertIn("Name:=liver", header)
        self.assertNotIn("kidney", header)

    def test_what_is_missing_is_said(self):
        for volume, model, part in (
            (Node("CT"), "", "No model is chosen"),
            (Node("CT"), "/nowhere/x.safetensors", "/nowhere/x.safetensors does not exist"),
            (None, MODEL, "No volume"),
            (Node("unsavable"), MODEL, "unsavable can't be written"),
        ):
            with self.assertRaisesRegex(module.ProgramError, part):
                self.logic.start(volume, model)
            self.assertEqual(self.leftovers(), [])
        self.logic.programFolders = lambda: ["/nowhere"]
        if shutil.which("voxtile") is None:
            with self.assertRaisesRegex(module.ProgramError, "/nowhere"):
                self.logic.start(Node("CT"), MODEL)
        broken = Path(self.programs.name) / "broken"
        broken.write_text("not a program")
        broken.chmod(0o755)
        with self.assertRaisesRegex(module.ProgramError, "can't be started"):
            VoxtileLib.Run(str(broken), "in.nrrd", "out.nrrd", str(MODEL))

    def test_what_the_program_refuses_is_said(self):
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as model:
            model.write(b"no model at all")
            model.flush()
            self.logic.start(Node("CT"), model.name)
            with self.assertRaisesRegex(module.ProgramError, Path(model.name).name):
                finish(self.logic.poll)
        self.assertFalse(self.logic.cancelled)
        self.assertEqual(self.leftovers(), [])


class WidgetTest(unittest.TestCase):
    def setUp(self):
        slicer.errors.clear()
        Settings.values.clear()
        self.widget = module.VoxtileSegmentationWidget()
        self.widget.setup()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.symlink(PROGRAM, Path(folder.name) / "voxtile")
        self.widget.logic.programFolders = lambda: [folder.name]
        self.ui = self.widget.ui

    def choose(self, model):
        self.ui.inputSelector.node = Node("CT")
        self.ui.modelPath.currentPath = str(model)
        self.ui.inputSelector.slots["currentNodeChanged"]()

    def test_a_run_from_the_panel(self):
        self.assertFalse(self.ui.applyButton.enabled)
        self.choose(MODEL)
        self.assertTrue(self.ui.applyButton.enabled)
        self.ui.applyButton.slots["clicked"](True)
        self.assertTrue(self.widget.timer.running and self.ui.cancelButton.enabled)
        self.assertFalse(self.ui.applyButton.enabled)

        def tick():
            self.widget.timer.slots["timeout"]()
            return not self.widget.timer.running

        finish(tick)
        self.assertEqual(self.ui.statusLabel.text, "Done: CT segmentation")
        self.assertEqual(self.ui.progressBar.value, 100)
        self.assertTrue(self.ui.applyButton.enabled)
        self.assertEqual((slicer.errors, Settings.values), ([], {"Voxtile/Model": str(MODEL)}))

    def test_cancel_and_missing_models(self):
        self.choose("")
        self.ui.applyButton.slots["clicked"](True)
        self.assertIn("No model is chosen", self.ui.statusLabel.text)
        self.assertEqual(len(slicer.errors), 1)
        self.choose(MODEL)
        self.ui.applyButton.slots["clicked"](True)
        self.ui.cancelButton.slots["clicked"](True)

        def tick():
            self.widget.timer.slots["timeout"]()
            return not self.widget.timer.running

        finish(tick)
        self.assertEqual(self.ui.statusLabel.text, "Cancelled.")
        self.assertEqual(len(slicer.errors), 1)
        self.widget.cleanup()

    def test_every_widget_that_is_used_is_in_the_panel(self):
        names = {
            element.get("name")
            for element in ElementTree.parse(MODULE / "Resources/UI/VoxtileSegmentation.ui").iter("widget")
        }
        used = set(vars(self.ui)) | {"mirrorCheckBox", "labelsEdit", "deviceSelector", "statusLabel"}
        self.assertLessEqual(used, names)

    def test_the_sample_is_offered_once_the_application_has_started(self):
        offered = []
        samples = types.ModuleType("SampleData")
        samples.SampleDataLogic = types.SimpleNamespace(
            registerCustomSampleDataSource=lambda **source: offered.append(source)
        )
        sys.modules["SampleData"] = samples
        module.VoxtileSegmentation(types.SimpleNamespace())
        start = slicer.app.slots["startupCompleted"]
        start()
        self.assertEqual(offered, [])  # a source tree has none
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(folder).resolve() / "Resources" / "SampleData" / "ct.nii.gz"
            sample.parent.mkdir(parents=True)
            sample.write_bytes((ROOT / "examples" / "ct.nii.gz").read_bytes())
            self.addCleanup(setattr, module, "SAMPLE", module.SAMPLE)
            module.SAMPLE = sample
            start()
        self.assertEqual((offered[0]["sampleName"], offered[0]["uris"]), ("VoxtileCT", sample.as_uri()))

    def test_the_module_describes_itself(self):
        parent = types.SimpleNamespace()
        module.VoxtileSegmentation(parent)
        self.assertEqual(parent.categories, ["Segmentation"])
        icon = MODULE / "Resources" / "Icons" / "VoxtileSegmentation.png"
        self.assertEqual(icon.read_bytes()[:4], b"\x89PNG")
        scripts = (MODULE / "CMakeLists.txt").read_text()
        for path in [*MODULE.rglob("*.py"), icon]:
            if path.name not in ("VoxtileSegmentation.py", icon.name):
                self.assertIn(str(path.relative_to(MODULE)), scripts)


if __name__ == "__main__":
    unittest.main()
