#ifndef itkVoxtileSegmentationImageFilter_h
#define itkVoxtileSegmentationImageFilter_h

#include <itkImageToImageFilter.h>
#include <itkVectorImage.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <voxtile.hpp>

namespace itk
{

/** \class VoxtileSegmentationImageFilter
 * \brief Segments a volume with a STU-Net / nnU-Net network from one model file.
 *
 * The input is an image of three dimensions and any scalar pixel type, or a VectorImage whose
 * components are the model's channels; spacing, origin and direction are heeded. The output is a
 * label map on the grid of the whole input, of an integer pixel type that holds the model's values.
 *
 * The whole input is requested and the whole output made: a network looks at all of it. Voxels are
 * read where they lie; only 64-bit integers are copied. Model and session are kept between updates
 * for as long as what they depend on stays the same. Progress goes to the observers of
 * ProgressEvent; AbortGenerateData() stops the run after its current tile, from any thread, and
 * Update() then throws ProcessAborted. Other failures are ExceptionObject with the library's text.
 *
 * \ingroup Voxtile
 */
template <typename TInputImage, typename TLabelImage>
class VoxtileSegmentationImageFilter : public ImageToImageFilter<TInputImage, TLabelImage>
{
public:
  ITK_DISALLOW_COPY_AND_MOVE(VoxtileSegmentationImageFilter);

  using Self = VoxtileSegmentationImageFilter;
  using Superclass = ImageToImageFilter<TInputImage, TLabelImage>;
  using Pointer = SmartPointer<Self>;
  using ConstPointer = SmartPointer<const Self>;

  using InputImageType = TInputImage;
  using LabelImageType = TLabelImage;
  /** The type of one channel of a voxel. */
  using ComponentType = typename TInputImage::InternalPixelType;
  using LabelType = typename TLabelImage::PixelType;
  /** Label values and their names. */
  using LabelNamesType = std::map<uint32_t, std::string>;

  static_assert(TInputImage::ImageDimension == 3, "the input has three dimensions");
  static_assert(TLabelImage::ImageDimension == 3, "the label map has three dimensions");
  static_assert(std::is_arithmetic<ComponentType>::value, "voxels are numbers");
  static_assert(std::is_integral<LabelType>::value && !std::is_same<LabelType, bool>::value,
                "labels are integers, and bool holds no more than one");

  itkNewMacro(Self);
  itkTypeMacro(VoxtileSegmentationImageFilter, ImageToImageFilter);

  /** The model package, a .safetensors file. */
  itkSetStringMacro(ModelFileName);
  itkGetStringMacro(ModelFileName);

  /** The device's number, as voxtile_device_get() tells; 0, the default, is the best there is. */
  itkSetMacro(Device, uint32_t);
  itkGetConstMacro(Device, uint32_t);

  /** Processor threads; 0, the default, is all. Labels do not depend on it. */
  itkSetMacro(Threads, uint32_t);
  itkGetConstMacro(Threads, uint32_t);

  /** Bytes that the run may take beyond images and model; 0, the default, is no limit. */
  itkSetMacro(MemoryBudget, uint64_t);
  itkGetConstMacro(MemoryBudget, uint64_t);

  /** How the network's values are held, one of VOXTILE_PRECISION_*; 0, the default, is the device's own. */
  itkSetMacro(Precision, uint32_t);
  itkGetConstMacro(Precision, uint32_t);

  /** Bytes of a GPU's memory that the run may take; 0, the default, is no limit. */
  itkSetMacro(DeviceMemoryBudget, uint64_t);
  itkGetConstMacro(DeviceMemoryBudget, uint64_t);

  /** Distance of tiles as a fraction of the patch, above 0 and at most 1. */
  itkSetMacro(TileStep, float);
  itkGetConstMacro(TileStep, float);

  /** Average over mirrored copies along the axes that the model allows. */
  itkSetMacro(Mirror, bool);
  itkGetConstMacro(Mirror, bool);
  itkBooleanMacro(Mirror);

  /** Leave out the model's post-processing. */
  itkSetMacro(Raw, bool);
  itkGetConstMacro(Raw, bool);
  itkBooleanMacro(Raw);

  /** Label values to keep, others become 0; all if empty. */
  void
  SetKeepLabels(const std::vector<uint32_t> & labels)
  {
    if (m_KeepLabels != labels)
    {
      m_KeepLabels = labels;
      this->Modified();
    }
  }
  itkGetConstReferenceMacro(KeepLabels, std::vector<uint32_t>);

  /** Steps that tidy up labels, after those of the model; none by default. */
  void
  SetCleanup(voxtile::Cleanup cleanup)
  {
    m_Cleanup = std::move(cleanup);
    this->Modified();
  }

  /** The model's labels, the background included. Opens the model if need be. */
  LabelNamesType
  GetLabelNames();

protected:
  VoxtileSegmentationImageFilter() = default;
  ~VoxtileSegmentationImageFilter() override = default;

  void
  GenerateInputRequestedRegion() override;
  void
  EnlargeOutputRequestedRegion(DataObject * output) override;
  void
  GenerateData() override;
  void
  PrintSelf(std::ostream & os, Indent indent) const override;

private:
  const voxtile::Model &
  OpenModel();
  voxtile::Session &
  OpenSession();

  std::string           m_ModelFileName;
  uint32_t              m_Device{ 0 };
  uint32_t              m_Threads{ 0 };
  uint64_t              m_MemoryBudget{ 0 };
  uint32_t              m_Precision{ 0 };
  uint64_t              m_DeviceMemoryBudget{ 0 };
  float                 m_TileStep{ 0.5f };
  bool                  m_Mirror{ false };
  bool                  m_Raw{ false };
  std::vector<uint32_t> m_KeepLabels;
  voxtile::Cleanup      m_Cleanup;

  /** What is kept between updates, and what it was made for. */
  std::unique_ptr<voxtile::Model>   m_Model;
  std::string                       m_OpenedModel;
  std::unique_ptr<voxtile::Session> m_Session;
  std::string                       m_OpenedSession;
};

} // namespace itk

#ifndef ITK_MANUAL_INSTANTIATION
#  include "itkVoxtileSegmentationImageFilter.hxx"
#endif

#endif
