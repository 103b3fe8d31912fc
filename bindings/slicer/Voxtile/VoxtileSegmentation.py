"""3D Slicer module: segments a volume with voxtile, beside the application."""

import logging
import os
import tempfile
from pathlib import Path

import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

from VoxtileLib import ProgramError, Run, check_model, find_program

POLL_MS = 100
SAMPLE = Path(__file__).resolve().parent / "Resources" / "SampleData" / "ct.nii.gz"


class VoxtileSegmentation(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "voxtile segmentation"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = []
        self.parent.contributors = ["The voxtile authors"]
        self.parent.helpText = (
            "Segments a volume with a STU-Net or nnU-Net network from one model file (.safetensors). "
            "Nothing is downloaded or uploaded. The sample data VoxtileCT is a volume to try."
        )
        self.parent.acknowledgementText = "STU-Net and nnU-Net are the work of their authors."
        # The module of sample data is there only then.
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data():
    """Offers the CT that the extension brings along in the module Sample Data."""
    import SampleData

    if SAMPLE.is_file():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="voxtile",
            sampleName="VoxtileCT",
            uris=SAMPLE.as_uri(),
            fileNames="VoxtileCT.nii.gz",
            nodeNames="VoxtileCT",
            thumbnailFileName=str(SAMPLE.parent.parent / "Icons" / "VoxtileSegmentation.png"),
        )


class VoxtileSegmentationWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/VoxtileSegmentation.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = VoxtileSegmentationLogic()
        self.ui.modelPath.setCurrentPath(qt.QSettings().value("Voxtile/Model", "") or "")
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.ui.cancelButton.connect("clicked(bool)", self.logic.cancel)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.onPoll)
        self.update()

    def cleanup(self):
        """The module is closed or reloaded."""
        self.timer.stop()
        self.logic.cancel()
        self.logic.clear()

    def update(self, *_):
        running = self.logic.running
        self.ui.applyButton.enabled = not running and self.ui.inputSelector.currentNode() is not None
        self.ui.cancelButton.enabled = running
        self.ui.progressBar.visible = running

    def onApply(self, *_):
        model = self.ui.modelPath.currentPath
        try:
            self.logic.start(
                self.ui.inputSelector.currentNode(),
                model,
                device=self.ui.deviceSelector.currentText,
                mirror=self.ui.mirrorCheckBox.checked,
                labels=self.ui.labelsEdit.text,
            )
        except ProgramError as error:
            self.show(str(error))
            slicer.util.errorDisplay(str(error))
            return
        qt.QSettings().setValue("Voxtile/Model", model)
        self.ui.progressBar.value = 0
        self.show("Segmenting ...")
        self.timer.start()
        self.update()

    def onPoll(self):
        try:
            finished = self.logic.poll()
        except ProgramError as error:
            self.timer.stop()
            self.update()
            self.show(str(error))
            if not self.logic.cancelled:
                slicer.util.errorDisplay(str(error))
            return
        self.ui.progressBar.value = round(100 * self.logic.progress)
        if finished:
            self.timer.stop()
            self.update()
            self.show(f"Done: {self.logic.segmentation.GetName()}")

    def show(self, text):
        self.ui.statusLabel.text = text


class VoxtileSegmentationLogic(ScriptedLoadableModuleLogic):
    """One run at a time: `start`, then `poll` until it says that it has finished."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.run = None
        self.segmentation = None
        self._volume = None
        self._folder = None

    @property
    def running(self):
        return self.run is not None and not self.run.done

    @property
    def progress(self):
        return self.run.progress if self.run else 0.0

    @property
    def cancelled(self):
        return self.run is not None and self.run.cancelled

    def programFolders(self):
        """Where the program may be: the extension's command line modules, and beside this file."""
        here = Path(__file__).resolve().parent
        # .../lib/Slicer-5.8/qt-scripted-modules/ and .../lib/Slicer-5.8/cli-modules/
        return [here.parent / "cli-modules", here]

    def start(self, volume, model, device="auto", threads=0, mirror=False, labels=""):
        """Begins to segment a volume node.

        Raises ProgramError, with a text for the user, if there is no volume, model or program.
        """
        if self.running:
            raise ProgramError("A segmentation is running; cancel it or wait for it.")
        if volume is None:
            raise ProgramError("No volume is chosen.")
        check_model(model)
        program = find_program(self.programFolders())
        self.clear()
        self.segmentation = None
        self._folder = tempfile.TemporaryDirectory(prefix="voxtile-", dir=slicer.app.temporaryPath)
        image = os.path.join(self._folder.name, "volume.nrrd")
        # Not compressed: it is read without being decompressed, and deleted soon.
        if not slicer.util.saveNode(volume, image, {"useCompression": 0}):
            self.clear()
            raise ProgramError(f"The volume {volume.GetName()} can't be written to {image}.")
        self._volume = volume
        output = self._output()
        try:
            self.run = Run(program, image, output, model, device, threads, mirror, labels)
        except ProgramError:
            self.clear()
            raise

    def _output(self):
        return os.path.join(self._folder.name, "segmentation.seg.nrrd")

    def poll(self):
        """Whether the run has finished; then `segmentation` is its node.

        Raises ProgramError if the run failed or was cancelled.
        """
        if self.run is None or not self.run.poll():
            return False
        if self._folder is None:
            return True
        try:
            for line in self.run.log:
                logging.info("voxtile: %s", line)
            if self.run.error:
                raise ProgramError(self.run.error)
            try:
                self.segmentation = self._load()
            except Exception as error:  # Slicer raises what it likes
                raise ProgramError(f"The segmentation can't be loaded: {error}") from error
        finally:
            self.clear()
        return True

    def _load(self):
        segmentation = slicer.util.loadSegmentation(self._output())
        segmentation.SetName(f"{self._volume.GetName()} segmentation")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        segmentation.SetAndObserveTransformNodeID(self._volume.GetTransformNodeID())
        # Its file is about to be deleted, and must not be offered as the place to save to.
        storage = segmentation.GetStorageNode()
        if storage:
            storage.SetFileName("")
        return segmentation

    def cancel(self, *_):
        if self.run:
            self.run.cancel()

    def clear(self):
        """Deletes the run's files."""
        if self._folder:
            try:
                self._folder.cleanup()
            except OSError as error:
                # On Windows a program that is just being killed may hold them.
                logging.warning("voxtile: %s", error)
            self._folder = None


class VoxtileSegmentationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_missing_model_is_said()
        self.test_a_volume_is_segmented()

    def test_missing_model_is_said(self):
        logic = VoxtileSegmentationLogic()
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        for model in ("", "/nowhere/model.safetensors"):
            try:
                logic.start(volume, model)
            except ProgramError as error:
                self.assertIn("odel", str(error))
            else:
                self.fail("a run without a model was started")

    def test_a_volume_is_segmented(self):
        model = os.environ.get("VOXTILE_TEST_MODEL")
        if not model:
            self.delayDisplay("VOXTILE_TEST_MODEL names no model package; nothing is segmented")
            return
        import SampleData

        volume = SampleData.downloadSample("VoxtileCT")
        logic = VoxtileSegmentationLogic()
        logic.start(volume, model)
        while not logic.poll():
            slicer.app.processEvents()
        self.assertGreater(logic.segmentation.GetSegmentation().GetNumberOfSegments(), 0)
        self.delayDisplay("Test passed")
