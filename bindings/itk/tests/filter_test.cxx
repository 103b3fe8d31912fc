// Tests of the filter: filter_test CASE EXAMPLES [FOLDER]
#include <itkCommand.h>
#include <itkComposeImageFilter.h>
#include <itkEuler3DTransform.h>
#include <itkExtractImageFilter.h>
#include <itkGDCMImageIO.h>
#include <itkImageFileReader.h>
#include <itkImageFileWriter.h>
#include <itkImageRegionConstIterator.h>
#include <itkImageSeriesWriter.h>
#include <itkMetaDataObject.h>
#include <itksys/SystemTools.hxx>
#include <itkCastImageFilter.h>

#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <set>
#include <sstream>

#include "itkVoxtileSegmentationImageFilter.h"

template <typename T>
using ImageOf = itk::Image<T, 3>;
using Image = ImageOf<int16_t>;
using Labels = ImageOf<uint8_t>;
template <typename TIn, typename TOut>
using Filter = itk::VoxtileSegmentationImageFilter<TIn, TOut>;

static std::string examples;

#define CHECK(condition)                                                                           \
  if (!(condition))                                                                                \
  {                                                                                                \
    throw std::runtime_error(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition); \
  }

static std::string
Model()
{
  return examples + "/demo.safetensors";
}

static Image::Pointer
Source()
{
  return itk::ReadImage<Image>(examples + "/ct_part.nii.gz");
}

template <typename TOut, typename TIn>
typename Filter<TIn, TOut>::Pointer
Make(TIn * input)
{
  auto filter = Filter<TIn, TOut>::New();
  filter->SetInput(input);
  filter->SetModelFileName(Model());
  return filter;
}

template <typename A, typename B>
size_t
Differing(const A * a, const B * b)
{
  CHECK(a->GetBufferedRegion().GetSize() == b->GetBufferedRegion().GetSize());
  itk::ImageRegionConstIterator<A> one(a, a->GetBufferedRegion());
  itk::ImageRegionConstIterator<B> other(b, b->GetBufferedRegion());
  size_t                           count = 0;
  for (; !one.IsAtEnd(); ++one, ++other)
  {
    count += static_cast<double>(one.Get()) != static_cast<double>(other.Get());
  }
  return count;
}

template <typename TException>
std::string
Thrown(const std::function<void()> & call)
{
  try
  {
    call();
  }
  catch (const TException & error)
  {
    return error.GetDescription();
  }
  throw std::runtime_error("nothing was thrown");
}

// The labels are those of the library itself, on the input's grid.
static void
TestLabels()
{
  auto image = Source();
  auto filter = Make<Labels>(image.GetPointer());
  filter->Update();
  auto labels = filter->GetOutput();
  CHECK(labels->GetSpacing() == image->GetSpacing() && labels->GetOrigin() == image->GetOrigin());
  CHECK(labels->GetDirection() == image->GetDirection());
  auto names = filter->GetLabelNames();
  CHECK(names.size() == 17 && names[0] == "background" && names[5] == "liver");
  std::set<int> found(labels->GetBufferPointer(), labels->GetBufferPointer() + image->GetBufferedRegion().GetNumberOfPixels());
  CHECK(found.size() > 10 && *found.rbegin() < 17);
  filter->Print(std::cout);

  auto       volume = voxtile::make<voxtile_volume>();
  const auto size = image->GetBufferedRegion().GetSize();
  volume.data = image->GetBufferPointer();
  volume.dtype = VOXTILE_I16;
  for (unsigned axis = 0; axis < 3; ++axis)
  {
    volume.dims[axis] = size[axis];
    volume.spacing[axis] = image->GetSpacing()[axis];
    volume.origin[axis] = image->GetOrigin()[axis];
    for (unsigned row = 0; row < 3; ++row)
    {
      volume.direction[3 * row + axis] = image->GetDirection()(row, axis);
    }
  }
  const auto expected = voxtile::Session(voxtile::Model(Model())).segment(volume);
  CHECK(std::equal(expected.begin(), expected.end(), labels->GetBufferPointer()));
}

template <typename TIn, typename TOut>
void
CheckTypes(Image * image, const Labels * expected)
{
  auto cast = itk::CastImageFilter<Image, ImageOf<TIn>>::New();
  cast->SetInput(image);
  auto filter = Make<ImageOf<TOut>>(cast->GetOutput());
  filter->Update();
  CHECK(Differing(expected, filter->GetOutput()) == 0);
}

static void
TestTypes()
{
  auto image = Source();
  auto filter = Make<Labels>(image.GetPointer());
  filter->Update();
  const Labels * expected = filter->GetOutput();
  CheckTypes<int16_t, uint16_t>(image, expected);
  CheckTypes<int32_t, int16_t>(image, expected);
  CheckTypes<float, uint32_t>(image, expected);
  CheckTypes<double, unsigned char>(image, expected);
  CheckTypes<long long, signed char>(image, expected);
}

// An image whose region does not begin at zero: the same place, the same labels.
static void
TestRegions()
{
  auto          image = Source();
  auto          extract = itk::ExtractImageFilter<Image, Image>::New();
  Image::RegionType region = image->GetLargestPossibleRegion();
  region.SetIndex(0, 7);
  region.SetSize(0, region.GetSize(0) - 7);
  extract->SetInput(image);
  extract->SetExtractionRegion(region);
  extract->SetDirectionCollapseToSubmatrix();
  auto filter = Make<Labels>(extract->GetOutput());
  // What is asked for is a part; what is made is the whole.
  auto part = region;
  part.SetSize(2, 2);
  filter->GetOutput()->SetRequestedRegion(part);
  filter->Update();
  CHECK(filter->GetOutput()->GetBufferedRegion() == region);
  auto whole = Make<Labels>(image.GetPointer());
  whole->Update();
  size_t same = 0, organs = 0;
  itk::ImageRegionConstIterator<Labels> one(filter->GetOutput(), region), other(whole->GetOutput(), region);
  for (; !one.IsAtEnd(); ++one, ++other)
  {
    same += one.Get() == other.Get();
    organs += other.Get() != 0;
  }
  CHECK(organs > 1000 && same > 0.97 * region.GetNumberOfPixels());
}

static void
TestChannels()
{
  auto image = Source();
  auto compose = itk::ComposeImageFilter<Image>::New();
  compose->SetInput(0, image);
  auto vector = Make<Labels>(compose->GetOutput());
  vector->Update();
  auto filter = Make<Labels>(image.GetPointer());
  filter->Update();
  CHECK(Differing(vector->GetOutput(), filter->GetOutput()) == 0);
  auto two = itk::ComposeImageFilter<Image>::New();
  two->SetInput(0, image);
  two->SetInput(1, image);
  auto wrong = Make<Labels>(two->GetOutput());
  CHECK(Thrown<itk::ExceptionObject>([&] { wrong->Update(); }).find("channel") != std::string::npos);
}

static void
TestOptions()
{
  auto image = Source();
  auto filter = Make<Labels>(image.GetPointer());
  filter->Update();
  Labels::Pointer all = filter->GetOutput();
  all->DisconnectPipeline();
  filter->SetThreads(1);
  filter->SetDevice(1);
  filter->Update();
  CHECK(Differing(all.GetPointer(), filter->GetOutput()) == 0);
  filter->SetKeepLabels({ 5 });
  filter->SetTileStep(0.5f);
  filter->Update();
  const auto * labels = filter->GetOutput()->GetBufferPointer();
  for (size_t voxel = 0; voxel < all->GetBufferedRegion().GetNumberOfPixels(); ++voxel)
  {
    CHECK(labels[voxel] == (all->GetBufferPointer()[voxel] == 5 ? 5 : 0));
  }
  voxtile::Cleanup cleanup;
  cleanup.minimum_size(1e9);
  filter->SetCleanup(std::move(cleanup));
  filter->Update();
  labels = filter->GetOutput()->GetBufferPointer();
  CHECK(std::all_of(labels, labels + all->GetBufferedRegion().GetNumberOfPixels(), [](auto label) { return label == 0; }));
  filter->SetCleanup({});
  filter->SetKeepLabels({});
  filter->SetPrecision(VOXTILE_PRECISION_BF16);
  filter->Update();
  const auto differing = Differing(all.GetPointer(), filter->GetOutput());
  CHECK(differing > 0 && differing < all->GetBufferedRegion().GetNumberOfPixels() / 100);
  filter->SetPrecision(VOXTILE_PRECISION_INT8);
  filter->Update();
  CHECK(Differing(all.GetPointer(), filter->GetOutput()) < all->GetBufferedRegion().GetNumberOfPixels() / 20);
}

static void
TestProgress()
{
  auto               image = Source();
  auto               filter = Make<Labels>(image.GetPointer());
  std::vector<float> shares;
  auto               command = itk::CStyleCommand::New();
  command->SetClientData(&shares);
  command->SetCallback([](itk::Object * caller, const itk::EventObject &, void * data) {
    static_cast<std::vector<float> *>(data)->push_back(static_cast<itk::ProcessObject *>(caller)->GetProgress());
  });
  filter->AddObserver(itk::ProgressEvent(), command);
  filter->Update();
  CHECK(shares.size() > 3 && std::is_sorted(shares.begin(), shares.end()) && shares.back() == 1.0f);
}

// AbortGenerateData ends the run within a tile, and the next update runs again.
static void
TestAbort()
{
  auto     image = Source();
  auto     filter = Make<Labels>(image.GetPointer());
  unsigned after = 0;
  auto     command = itk::CStyleCommand::New();
  command->SetClientData(&after);
  command->SetCallback([](itk::Object * caller, const itk::EventObject &, void * data) {
    auto * process = static_cast<itk::ProcessObject *>(caller);
    *static_cast<unsigned *>(data) += process->GetAbortGenerateData();
    if (process->GetProgress() > 0.2f)
    {
      process->AbortGenerateDataOn();
    }
  });
  const auto tag = filter->AddObserver(itk::ProgressEvent(), command);
  Thrown<itk::ProcessAborted>([&] { filter->Update(); });
  CHECK(after == 0);
  filter->RemoveObserver(tag);
  filter->AbortGenerateDataOff();
  filter->Modified();
  filter->Update();
  CHECK(filter->GetOutput()->GetBufferedRegion() == image->GetBufferedRegion());
}

static void
TestErrors()
{
  auto image = Source();
  auto filter = Make<Labels>(image.GetPointer());
  auto fails = [&](const std::string & part) {
    const auto text = Thrown<itk::ExceptionObject>([&] { filter->Update(); });
    CHECK(text.find(part) != std::string::npos);
  };
  filter->SetModelFileName("");
  fails("no model");
  filter->SetModelFileName("none.safetensors");
  fails("none.safetensors");
  filter->SetModelFileName(Model());
  filter->SetTileStep(2);
  fails("step");
  filter->SetTileStep(0.5f);
  filter->SetMemoryBudget(1000);
  fails("bytes");
  filter->SetMemoryBudget(0);
  filter->SetDevice(99);
  fails("99");
  filter->SetDevice(0);
  filter->SetKeepLabels({ 300 });
  fails("300");
  filter->SetKeepLabels({});
  filter->Update();
}

template <typename TNumbers>
std::string
Joined(const TNumbers & numbers)
{
  std::ostringstream text;
  text << std::setprecision(10);
  for (const double number : numbers)
  {
    text << (text.tellp() > 0 ? "\\" : "") << number;
  }
  return text.str();
}

// A DICOM series of an image, a file for each plane k.
static void
WriteSeries(const Image * image, const std::string & folder)
{
  itksys::SystemTools::MakeDirectory(folder);
  auto       io = itk::GDCMImageIO::New();
  const auto size = image->GetLargestPossibleRegion().GetSize();
  const auto & direction = image->GetDirection();
  std::vector<double> axes;
  for (unsigned axis = 0; axis < 2; ++axis)
  {
    for (unsigned row = 0; row < 3; ++row)
    {
      axes.push_back(direction(row, axis));
    }
  }
  using Writer = itk::ImageSeriesWriter<Image, itk::Image<int16_t, 2>>;
  std::vector<itk::MetaDataDictionary>   planes(size[2]);
  Writer::DictionaryArrayType            dictionaries;
  Writer::FileNamesContainer             names;
  for (size_t k = 0; k < size[2]; ++k)
  {
    Image::IndexType index = { { 0, 0, static_cast<itk::IndexValueType>(k) } };
    Image::PointType point;
    image->TransformIndexToPhysicalPoint(index, point);
    const std::vector<double> position(point.Begin(), point.End());
    auto set = [&](const char * tag, const std::string & value) {
      itk::EncapsulateMetaData<std::string>(planes[k], tag, value);
    };
    set("0008|0060", "CT");
    set("0020|000d", "1.2.826.0.1.3680043.2.1125.1");
    set("0020|000e", "1.2.826.0.1.3680043.2.1125.2");
    set("0020|0013", std::to_string(k + 1));
    set("0020|0032", Joined(position));
    set("0020|0037", Joined(axes));
    dictionaries.push_back(&planes[k]);
    // Names that say nothing of the order.
    names.push_back(folder + "/" + std::to_string((k * 7) % size[2]) + "_" + std::to_string(k) + ".dcm");
  }
  auto writer = Writer::New();
  io->KeepOriginalUIDOn();
  writer->SetInput(image);
  writer->SetImageIO(io);
  writer->SetFileNames(names);
  writer->SetMetaDataDictionaryArray(&dictionaries);
  writer->Update();
}

// Not a test: writes the example at a slant in several formats.
static void
Write(const std::string & folder)
{
  auto image = Source();
  auto turn = itk::Euler3DTransform<double>::New();
  turn->SetRotation(0.1, -0.2, 0.3);
  image->SetDirection(Image::DirectionType(turn->GetMatrix() * image->GetDirection()));
  for (const char * ending : { "nii.gz", "nrrd", "mha" })
  {
    itk::WriteImage(image.GetPointer(), folder + "/oblique." + ending);
  }
  WriteSeries(image, folder + "/series");
}

int
main(int argc, char ** argv)
{
  if (argc < 3)
  {
    std::cerr << "usage: filter_test CASE EXAMPLES [FOLDER]\n";
    return 2;
  }
  const std::map<std::string, std::function<void()>> cases = {
    { "labels", TestLabels },     { "types", TestTypes },       { "regions", TestRegions },
    { "channels", TestChannels }, { "options", TestOptions },   { "progress", TestProgress },
    { "abort", TestAbort },       { "errors", TestErrors },     { "write", [&] { Write(argc > 3 ? argv[3] : "."); } },
  };
  examples = argv[2];
  try
  {
    cases.at(argv[1])();
  }
  catch (const std::exception & error)
  {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
